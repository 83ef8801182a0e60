// libdatachannel, by its bindings for Node.js: answers by itself when it is given an offer. An offer with another
// fingerprint on a connection that is up, and every restart of ICE, is refused with "Invalid ICE settings".

import { readFileSync } from "node:fs";

import * as rtc from "node-datachannel";
import WebSocket from "ws";

import { emit, obey, options } from "./node.js";
import { Room, pause } from "./room.js";
import { KeyframeCounter } from "./rtp.js";

const { api, role, answerAfter, unit } = options();
const PAYLOAD_TYPE = 96;
const SSRC = 0x0e10;

let pc = null;
let state = "new";
let early = [];
// What is not referred to is collected, and its callbacks with it.
const kept = [];

/** `stun:HOST:PORT` and `turn:HOST:PORT?transport=` as libdatachannel wants them. */
function servers(iceServers) {
  return iceServers.flatMap(({ urls, username, credential }) => [urls].flat().map((url) => {
    const [, scheme, hostname, port, transport] = /^(\w+):(.+?)(?::(\d+))?(?:\?transport=(\w+))?$/.exec(url);
    if (scheme === "stun") return url;
    const relayType = { turns: "TurnTls" }[scheme] ?? (transport === "tcp" ? "TurnTcp" : "TurnUdp");
    return { hostname, port: Number(port ?? 3478), username, password: credential, relayType };
  }));
}

function connect() {
  // It leaves loopback out, unless it is bound to it.
  const made = new rtc.PeerConnection(role, { iceServers: servers(room.iceServers), bindAddress: "127.0.0.1" });
  pc = made;
  state = "new";
  emit("connection", { state });
  made.onLocalDescription((sdp, type) => room.send(type, { sdp }));
  made.onLocalCandidate((candidate, sdpMid) => room.send("ice", { candidate: { candidate, sdpMid, sdpMLineIndex: null } }));
  made.onStateChange((now) => {
    if (made !== pc) return;
    state = now;
    emit("connection", { state });
  });
  made.onTrack(watch);
  made.onDataChannel(listen);
}

function watch(track) {
  const counter = new KeyframeCounter(emit);
  track.setMediaHandler(new rtc.RtcpReceivingSession());
  track.onMessage((bytes) => counter.onBytes(bytes));
  kept.push(track);
}

function listen(channel) {
  const label = channel.getLabel();
  channel.onOpen(() => emit("channel", { label }));
  channel.onMessage((text) => {
    const { t, id, ts, seq } = JSON.parse(text);
    if (t === "ping") channel.sendMessage(JSON.stringify({ t: "pong", id, ts }));
    if (t === "text") channel.sendMessage(JSON.stringify({ t: "ack", id }));
    if (t === "keyframe") emit("announced", { seq });
  });
  kept.push(channel);
}

/** The phone's track, one picture a second. */
function capture() {
  const video = new rtc.Video("video", "SendOnly");
  video.addH264Codec(PAYLOAD_TYPE);
  video.addSSRC(SSRC, "phone");
  const track = pc.addTrack(video);
  const config = new rtc.RtpPacketizationConfig(SSRC, "phone", PAYLOAD_TYPE, 90_000);
  const packetizer = new rtc.H264RtpPacketizer("StartSequence", config);
  packetizer.addToChain(new rtc.RtcpSrReporter(config));
  packetizer.addToChain(new rtc.RtcpNackResponder());
  track.setMediaHandler(packetizer);
  const accessUnit = readFileSync(unit);
  setInterval(() => {
    if (!track.isOpen()) return;
    config.timestamp = Math.floor(performance.now() * 90) >>> 0;
    track.sendMessageBinary(accessUnit);
  }, 1000);
  kept.push(track, config, packetizer);
}

function addEarly() {
  for (const candidate of early.splice(0)) add(candidate);
}

function add(candidate) {
  if (candidate?.candidate) pc.addRemoteCandidate(candidate.candidate, candidate.sdpMid ?? "");
}

async function onMessage({ t, sdp, candidate }) {
  if (t === "offer") {
    if (answerAfter > 0) await pause(answerAfter);
    // Every offer goes to the connection there is, unless that has ended.
    if (pc && ["closed", "failed"].includes(state)) {
      pc.close();
      pc = null;
    }
    if (!pc) connect();
    pc.setRemoteDescription(sdp, "offer");
    addEarly();
  } else if (t === "answer") {
    pc.setRemoteDescription(sdp, "answer");
    addEarly();
  } else if (t === "ice") {
    if (pc?.remoteDescription()) add(candidate);
    else early.push(candidate);
  }
}

const room = new Room({ api, device: role, WebSocket, emit, cut: (socket) => socket.terminate(), onMessage });
obey({
  drop: (ms) => room.drop(ms),
  quit: () => {
    room.leave();
    pc?.close();
    setTimeout(() => process.exit(0), 200);
  },
});
await room.join();
if (role === "phone") {
  connect();
  capture();
  listen(pc.createDataChannel("control", { unordered: true, maxPacketLifeTime: 100 }));
}
