// The app on Chromium: the page tells the process that opened it what it sees, and obeys it. An offer with another
// fingerprint on a connection that is up is accepted, with a new DTLS association on the same connection.

import { Room } from "./room.js";
import { App } from "./w3c.js";

const parameters = new URLSearchParams(location.search);
const role = parameters.get("role");
const answerAfter = Number(parameters.get("answerAfter"));
const video = document.querySelector("video");
const canvas = document.querySelector("canvas");

const rig = new WebSocket(`${location.origin.replace(/^http/, "ws")}/rig`);
await new Promise((resolve) => (rig.onopen = resolve));
const emit = (event, fields = {}) => rig.send(JSON.stringify({ t: Date.now(), event, ...fields }));
addEventListener("error", ({ message }) => emit("error", { message }));
addEventListener("unhandledrejection", ({ reason }) => emit("error", { message: String(reason) }));

const newConnection = (iceServers) => new RTCPeerConnection({ iceServers });

/** Encoded pictures on their way to the decoder (W3C webrtc-encoded-transform), and what was decoded. */
function watch({ track, receiver }) {
  const worker = new Worker("encoded.js");
  worker.onmessage = ({ data }) => emit("keyframe", data);
  receiver.transform = new RTCRtpScriptTransform(worker, {});
  video.srcObject = new MediaStream([track]);
  setInterval(async () => {
    for (const entry of (await receiver.getStats()).values()) {
      if (entry.type === "inbound-rtp") emit("decoded", { count: entry.framesDecoded });
    }
  }, 1000);
}

/** A canvas on which something moves. */
function capture(pc) {
  const context = canvas.getContext("2d");
  let step = 0;
  setInterval(() => {
    context.fillStyle = (step += 1) % 2 ? "#c82828" : "#28a03c";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }, 200);
  const stream = canvas.captureStream(5);
  const transceiver = pc.addTransceiver(stream.getVideoTracks()[0], { direction: "sendonly", streams: [stream] });
  const { codecs } = RTCRtpSender.getCapabilities("video");
  transceiver.setCodecPreferences(codecs.filter(({ mimeType, sdpFmtpLine }) =>
    mimeType === "video/H264" && /packetization-mode=1;profile-level-id=42e0/.test(sdpFmtpLine)));
}

const app = new App({ role, answerAfter, newConnection, watch, capture, emit });
const room = new Room({
  api: location.origin, device: role, WebSocket, emit, cut: () => fetch("/cut"),
  onMessage: (message) => app.onMessage(message),
});
rig.onmessage = ({ data }) => {
  const [command, argument] = data.split(" ");
  if (command === "drop-signaling") room.drop(Number(argument));
  else room.leave();
};
await app.start(room);
