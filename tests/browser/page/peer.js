// The foreign peer: the wire contract in plain browser JavaScript, sharing no code with orion-peer. The test calls the
// methods of `window.peer`.

import { paint, quarters, watch } from "./pictures.js";
import { pinging, still } from "./still.js";
import { incoming, outgoing, setWire, isAccepted, isSent } from "./wire.js";

const video = document.querySelector("#video");
const canvas = document.querySelector("#canvas");

/** The peer of this page. */
const peer = {
  pc: null,
  socket: null,
  /** Every received signaling message. */
  signals: [],
  /** The last remote description, as received. */
  theirSdp: null,
  /** Every received control message: `{on, ...message}`, where `on` names the channel. */
  controls: [],
  /** Candidates found here. */
  candidates: [],
  /** When each keyframe of `bePhotographer` was passed to the packetizer, and its size. */
  sent: [],
  /** Messages of the encoder's worker. */
  transformed: [],
  problems: [],
  /** By name: `own` and `theirs` are the control channels. */
  channels: { own: null, theirs: null },
  /** Best PSNR of the shown picture against each sample, dB. */
  matches: {},
};
window.peer = peer;

addEventListener("error", (event) => peer.problems.push(event.message));
addEventListener("unhandledrejection", (event) => peer.problems.push(String(event.reason)));

/** Opens the signaling socket; resolves with the subprotocol the server chose. */
peer.join = ({ signal, token, pairId }) =>
  new Promise((resolve, reject) => {
    const socket = new WebSocket(signal, ["orion.v1", `bearer.${token}`]);
    peer.socket = socket;
    peer.pairId = pairId;
    socket.onopen = () => resolve(socket.protocol);
    socket.onerror = () => reject(new Error("signaling socket refused"));
    // One message after the other: a candidate must not overtake the offer before it.
    let last = Promise.resolve();
    socket.onmessage = ({ data }) => {
      last = last.then(() => onSignal(JSON.parse(data))).catch((error) => {
        peer.problems.push(String(error));
      });
    };
  });

function signal(t, fields) {
  peer.socket.send(JSON.stringify({ t, pairId: peer.pairId, ...fields }));
}

let early = [];
let lastOffer = null;
let answerCodec = null;

async function onSignal(message) {
  peer.signals.push(message);
  if (message.sdp) peer.theirSdp = message.sdp;
  const { pc } = peer;
  if (message.t === "offer") {
    // The same offer may arrive twice; a different one restarts ICE.
    if (message.sdp === lastOffer) return;
    lastOffer = message.sdp;
    await pc.setRemoteDescription({ type: "offer", sdp: incoming(message.sdp) });
    if (answerCodec) preferOnly(pc.getTransceivers()[0], answerCodec, RTCRtpReceiver);
    await pc.setLocalDescription();
    signal("answer", { sdp: await outgoing(pc) });
    await addEarly();
  } else if (message.t === "answer") {
    // Answers to a rolled-back offer are ignored.
    if (pc.signalingState !== "have-local-offer") return;
    await pc.setRemoteDescription({ type: "answer", sdp: incoming(message.sdp) });
    await addEarly();
  } else if (message.t === "ice" && isAccepted(message.candidate?.candidate ?? "")) {
    if (pc.remoteDescription) await pc.addIceCandidate(message.candidate ?? undefined);
    else early.push(message.candidate);
  }
}

async function addEarly() {
  for (const candidate of early) await peer.pc.addIceCandidate(candidate ?? undefined);
  early = [];
}

/** Codecs of one MIME type, narrowed by a regular expression on their parameters; with `repair` also those that
 * repair losses (RFC 4588, RFC 2198, RFC 5109). */
function preferOnly(transceiver, { codec: mimeType, fmtp = "", repair = false }, kind) {
  const { codecs } = kind.getCapabilities("video");
  const same = codecs.filter((codec) => codec.mimeType === mimeType && RegExp(fmtp).test(codec.sdpFmtpLine ?? ""));
  // Constrained baseline with packetization mode 1 first, as in the contract.
  const rank = (codec) => (/packetization-mode=1;profile-level-id=42e01f/.test(codec.sdpFmtpLine ?? "") ? 0 : 1);
  const repairs = repair ? codecs.filter((codec) => /\/(rtx|red|ulpfec)$/.test(codec.mimeType)) : [];
  transceiver.setCodecPreferences([...same.sort((a, b) => rank(a) - rank(b)), ...repairs]);
}

function newConnection(options) {
  const { policy: iceTransportPolicy, bundle: bundlePolicy, servers = "" } = options;
  // Servers whose URLs do not match are omitted.
  const iceServers = options.iceServers
    .map((server) => ({ ...server, urls: [server.urls].flat().filter((url) => RegExp(servers).test(url)) }))
    .filter(({ urls }) => urls.length > 0);
  setWire(options);
  const pc = new RTCPeerConnection({ iceServers, iceTransportPolicy, bundlePolicy });
  peer.pc = pc;
  pc.onicecandidate = ({ candidate }) => {
    if (candidate) peer.candidates.push(candidate.candidate);
    if (isSent(candidate?.candidate ?? "")) signal("ice", { candidate: candidate ? candidate.toJSON() : null });
  };
  pc.ondatachannel = ({ channel }) => {
    peer.channels.theirs = channel;
    listen(channel, "theirs");
  };
  return pc;
}

/** Opens a channel of this page: by default the control channel of the contract. */
peer.openChannel = ({ name = "own", label = "control", init = { ordered: false, maxPacketLifeTime: 100 } } = {}) => {
  const channel = peer.pc.createDataChannel(label, init);
  peer.channels[name] = channel;
  listen(channel, name);
};

function listen(channel, on) {
  channel.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    peer.controls.push({ on, ...message });
    const answer = (fields) => channel.send(JSON.stringify(fields));
    if (message.t === "ping") answer({ t: "pong", id: message.id, ts: message.ts });
    if (message.t === "text") answer({ t: "ack", id: message.id });
    if (message.t === "keyframe-request") peer.keyframe();
  };
}

/** Makes the encoder produce a keyframe for the next picture. */
peer.keyframe = async () => {
  const sender = peer.pc.getSenders()[0];
  await sender.setParameters(sender.getParameters(), { encodingOptions: [{ keyFrame: true }] });
};

/** Sends a control message on the channel `on`; false while that is not open. */
peer.say = (on, message) => peer.sayRaw(on, JSON.stringify(message));

/** Sends a text unchanged, or as bytes. */
peer.sayRaw = (on, text, { binary = false } = {}) => {
  const channel = peer.channels[on];
  if (channel?.readyState !== "open") return false;
  channel.send(binary ? new TextEncoder().encode(text) : text);
  return true;
};

/** State of the channel `on`. */
peer.channelState = (on) => peer.channels[on]?.readyState;

/** The lines of the remote description that begin with `start`, below its first m-line of `kind`. */
peer.described = (kind, start) => {
  const media = peer.theirSdp.split("\r\nm=").find((part) => part.startsWith(kind)) ?? "";
  return media.split("\r\n").filter((line) => line.startsWith(start));
};

/** Restarts ICE on the existing connection. */
peer.restartIce = async () => {
  await peer.pc.setLocalDescription(await peer.pc.createOffer({ iceRestart: true }));
  signal("offer", { sdp: await outgoing(peer.pc) });
};

/** Opens many channels, and sends long messages on a reliable one; returns how many could be sent. */
peer.flood = async ({ channels, messages, bytes }) => {
  const long = peer.pc.createDataChannel("long");
  await new Promise((resolve) => (long.onopen = resolve));
  for (let i = 0; i < channels; i += 1) peer.pc.createDataChannel(`channel ${i}`).onerror = () => {};
  let sent = 0;
  for (; sent < messages && long.readyState === "open"; sent += 1) {
    try {
      long.send("x".repeat(bytes));
    } catch (error) {
      return { sent, error: error.name };
    }
    while (long.readyState === "open" && long.bufferedAmount > 4 * bytes) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  return { sent };
};

/** Each m-line of the answer: its kind, and whether it was accepted. */
peer.answered = () => peer.theirSdp.split("\r\n")
  .filter((line) => line.startsWith("m=")).map((line) => line.split(" ").slice(0, 2).join(" "));

/** The user name fragments of both peers (RFC 8445 §5.3), and the connection state. */
peer.ice = () => {
  const fragment = (description) => /a=ice-ufrag:(\S+)/.exec(description?.sdp ?? "")?.[1];
  const { currentLocalDescription, currentRemoteDescription, connectionState, iceConnectionState } = peer.pc;
  return { local: fragment(currentLocalDescription), remote: fragment(currentRemoteDescription), connectionState, iceConnectionState };
};

/** Properties of the remote peer's channel. */
peer.theirChannel = () => {
  const channel = peer.channels.theirs;
  return channel && {
    label: channel.label, ordered: channel.ordered, life: channel.maxPacketLifeTime,
  };
};

/** Waits for offers; with `codec` the answer accepts only that codec, and with `offers` the page offers itself. */
peer.beMac = async (options) => {
  answerCodec = options.codec ? options : null;
  const pc = newConnection(options);
  pc.ontrack = ({ track }) => {
    video.srcObject = new MediaStream([track]);
  };
  if (!options.offers) return;
  pc.addTransceiver("video", { direction: "recvonly" });
  peer.openChannel();
  await pc.setLocalDescription();
  signal("offer", { sdp: await outgoing(pc) });
};

/** A canvas of four colors with a moving square, or the camera. */
async function source({ width, height, colours, fps = 5, camera = false }) {
  if (camera) return navigator.mediaDevices.getUserMedia({ video: { width, height, frameRate: fps } });
  Object.assign(canvas, { width, height });
  paint(canvas, colours, 0);
  let step = 0;
  setInterval(() => paint(canvas, colours, step += 1), 1000 / fps);
  return canvas.captureStream(fps);
}

/** Offers the canvas or the camera, and the `channels`; with `extra` also audio before it and another video after
 * it, with `announce` an announcement of each keyframe. */
peer.bePhone = async (options) => {
  const { codec, extra = false, announce = false, channels = [{}] } = options;
  const pc = newConnection(options);
  channels.forEach(peer.openChannel);
  if (extra) pc.addTransceiver("audio");
  const stream = await source(options);
  const transceiver = pc.addTransceiver(stream.getVideoTracks()[0], {
    direction: "sendonly", streams: [stream],
  });
  preferOnly(transceiver, options, RTCRtpSender);
  if (extra) pc.addTransceiver("video", { direction: "recvonly" });
  if (codec === "video/H264") {
    peer.worker = new Worker("transform.js");
    peer.worker.onmessage = ({ data }) => {
      peer.transformed.push(data);
      if (announce && data.keyframe) peer.say("own", { t: "keyframe", seq: peer.transformed.length, ...data.keyframe });
    };
    transceiver.sender.transform = new RTCRtpScriptTransform(peer.worker, {});
  }
  await pc.setLocalDescription();
  signal("offer", { sdp: await outgoing(pc) });
};

/** Offers a photo as a keyframe on connection and then every `every` ms, with the access unit at the URL `unit` instead of
 * the encoder's output, and pings. `peer.sent` records when each keyframe was passed to the packetizer. */
peer.bePhotographer = async (options) => {
  const { unit, every, pingEvery } = options;
  const { stream, next } = await still(canvas, options);
  const bytes = unit ? await (await fetch(unit)).arrayBuffer() : null;
  const pc = newConnection(options);
  peer.openChannel();
  const transceiver = pc.addTransceiver(stream.getVideoTracks()[0], { direction: "sendonly", streams: [stream] });
  peer.worker = new Worker("transform.js");
  peer.worker.onmessage = ({ data }) => data.sent && peer.sent.push(data.sent);
  // Chromium accepts it only in the task that created the sender.
  transceiver.sender.transform = new RTCRtpScriptTransform(peer.worker, { unit: bytes, times: true });
  pc.onconnectionstatechange = () => {
    if (pc.connectionState !== "connected" || peer.connectedAt) return;
    peer.connectedAt = performance.timeOrigin + performance.now();
    peer.pings = pinging(peer.channels.own, pingEvery);
    const picture = async () => {
      await peer.keyframe();
      next();
    };
    picture();
    setInterval(picture, every);
  };
  await pc.setLocalDescription();
  signal("offer", { sdp: await outgoing(pc) });
};

/** Sums the numbers `names` over the statistics of one `type`. */
peer.stats = async (type, names) => {
  const sums = Object.fromEntries(names.map((name) => [name, 0]));
  for (const entry of (await peer.pc.getStats()).values()) {
    if (entry.type !== type) continue;
    for (const name of names) sums[name] += entry[name] ?? 0;
  }
  return sums;
};

/** The nominated pair: local and remote candidate. */
peer.selected = async () => {
  const stats = await peer.pc.getStats();
  for (const entry of stats.values()) {
    if (entry.type !== "transport" || !entry.selectedCandidatePairId) continue;
    const pair = stats.get(entry.selectedCandidatePairId);
    return [pair.localCandidateId, pair.remoteCandidateId].map((id) => {
      const { candidateType, address, relayProtocol } = stats.get(id) ?? {};
      return { candidateType, address, relayProtocol };
    });
  }
  return null;
};

/** The candidate types of the nominated pair, as `local/remote`. */
peer.pair = async () => (await peer.selected())?.map((one) => one.candidateType).join("/") ?? null;

peer.watch = (urls) => watch(video, urls, peer.matches);
peer.quarters = quarters;

/** Leaves the room and closes the connection. */
peer.leave = (reason) => {
  signal("bye", { reason });
  peer.pc.close();
  peer.socket.close();
};
