// The app on a browser: the page reports events to the process that opened it, and executes its commands. An offer with
// another fingerprint on an established connection is accepted by Chromium, with a new DTLS association on the same
// connection.

import { Room } from "./room.js";
import { App } from "./w3c.js";

const parameters = new URLSearchParams(location.search);
const role = parameters.get("role");
const answerAfter = Number(parameters.get("answerAfter"));
const renew = parameters.has("renew");
const talk = parameters.has("talk");
/** Interval between two pictures of the phone, ms. */
const EVERY = 500;
const video = document.querySelector("video");
const canvas = document.querySelector("canvas");

const rig = new WebSocket(`${location.origin.replace(/^http/, "ws")}/rig`);
await new Promise((resolve) => (rig.onopen = resolve));
const emit = (event, fields = {}) => rig.send(JSON.stringify({ t: Date.now(), event, ...fields }));
addEventListener("error", ({ message }) => emit("error", { message }));
addEventListener("unhandledrejection", ({ reason }) => emit("error", { message: String(reason) }));

const newConnection = (iceServers) => new RTCPeerConnection({ iceServers });

/** Encoded pictures pass through a worker between the encoder or decoder and the network (W3C webrtc-encoded-transform). */
function transform(end, options) {
  const worker = new Worker("encoded.js");
  worker.onmessage = ({ data: { event, ...fields } }) => emit(event, fields);
  end.transform = new RTCRtpScriptTransform(worker, options);
  return worker;
}

/** Reports encoded pictures before the decoder, and decoded pictures. */
function watch({ track, receiver }) {
  transform(receiver, {});
  video.srcObject = new MediaStream([track]);
  setInterval(async () => {
    for (const entry of (await receiver.getStats()).values()) {
      if (entry.type === "inbound-rtp") emit("decoded", { count: entry.framesDecoded });
    }
  }, 1000);
}

/** A canvas with changing contents; the keyframes of the encoder are replaced with the picture to send, and nothing else
 * is sent. */
async function capture(pc) {
  const unit = await (await fetch("/unit")).arrayBuffer();
  const context = canvas.getContext("2d");
  let step = 0;
  const timer = setInterval(() => {
    context.fillStyle = (step += 1) % 2 ? "#c82828" : "#28a03c";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }, 200);
  const stream = canvas.captureStream(5);
  const transceiver = pc.addTransceiver(stream.getVideoTracks()[0], { direction: "sendonly", streams: [stream] });
  const { codecs } = RTCRtpSender.getCapabilities("video");
  const h264 = codecs.filter(({ mimeType, sdpFmtpLine }) =>
    mimeType === "video/H264" && /packetization-mode=1/.test(sdpFmtpLine) && /profile-level-id=42e0/.test(sdpFmtpLine));
  // A browser without H.264 offers its other codecs.
  if (h264.length > 0) transceiver.setCodecPreferences(h264);
  const { sender } = transceiver;
  const worker = transform(sender, { unit });
  // Rejected until it is negotiated (W3C webrtc-extensions).
  const asking = setInterval(() => {
    sender.setParameters(sender.getParameters(), { encodingOptions: [{ keyFrame: true }] }).catch(() => {});
  }, EVERY);
  return () => {
    clearInterval(timer);
    clearInterval(asking);
    worker.postMessage("stop");
  };
}

const app = new App({ role, answerAfter, renew, talk, newConnection, watch, capture, emit });
const room = new Room({
  api: location.origin, device: role, WebSocket, emit, cut: () => fetch("/cut"),
  onMessage: (message) => app.onMessage(message),
});
rig.onmessage = ({ data }) => {
  const [command, argument] = data.split(" ");
  if (command === "drop-signaling") room.drop(Number(argument));
  else if (command === "restart") app.restart();
  else if (command === "stop") app.stop();
  else room.leave();
};
await app.start(room);
