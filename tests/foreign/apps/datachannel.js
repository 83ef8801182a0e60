// libdatachannel with its bindings for Node.js: answers offers by itself. An offer with another fingerprint on an
// established connection, and every ICE restart, is refused with "Invalid ICE settings".

import { readFileSync } from "node:fs";

import * as rtc from "node-datachannel";

import { emit, options, run } from "./node.js";
import { EVERY, KeyframeCounter } from "./rtp.js";

const { role, unit } = options();
const PAYLOAD_TYPE = 96;
const SSRC = 0x0e10;

// Unreferenced objects are collected together with their callbacks.
const kept = [];

/** `stun:HOST:PORT` and `turn:HOST:PORT?transport=` in the format of libdatachannel. */
function servers(iceServers) {
  return iceServers.flatMap(({ urls, username, credential }) => [urls].flat().map((url) => {
    const [, scheme, hostname, port, transport] = /^(\w+):(.+?)(?::(\d+))?(?:\?transport=(\w+))?$/.exec(url);
    if (scheme === "stun") return url;
    const relayType = { turns: "TurnTls" }[scheme] ?? (transport === "tcp" ? "TurnTcp" : "TurnUdp");
    return { hostname, port: Number(port ?? 3478), username, password: credential, relayType };
  }));
}

/** Its data channel with the interface of W3C. */
class Channel {
  attach(channel) {
    this.channel = channel;
    this.label = channel.getLabel();
    channel.onOpen(() => this.onopen?.());
    channel.onClosed(() => this.onclose?.());
    channel.onMessage((data) => this.onmessage?.({ data }));
    kept.push(channel);
    return this;
  }

  send(text) {
    this.channel.sendMessage(text);
  }
}

/** Its peer connection with the interface of W3C. It creates its description as soon as something is added to it:
 * therefore everything is added in `createOffer`. */
class Connection {
  connectionState = "new";
  remoteDescription = null;
  localDescription = null;
  #described = () => {};

  constructor(iceServers) {
    // It omits loopback unless it is bound to it.
    this.pc = new rtc.PeerConnection(role, { iceServers: servers(iceServers), bindAddress: "127.0.0.1" });
    this.pc.onLocalDescription((sdp, type) => {
      this.localDescription = { type, sdp };
      this.#described(this.localDescription);
    });
    this.pc.onLocalCandidate((candidate, sdpMid) => this.onicecandidate({ candidate: { candidate, sdpMid, sdpMLineIndex: null } }));
    this.pc.onStateChange((state) => {
      this.connectionState = state;
      this.onconnectionstatechange();
    });
    this.pc.onTrack((track) => this.ontrack(track));
    this.pc.onDataChannel((channel) => this.ondatachannel({ channel: new Channel().attach(channel) }));
  }

  createDataChannel(label, { ordered, maxPacketLifeTime }) {
    this.channel = new Channel();
    this.open = () => this.channel.attach(this.pc.createDataChannel(label, { unordered: !ordered, maxPacketLifeTime }));
    return this.channel;
  }

  createOffer({ iceRestart = false } = {}) {
    if (iceRestart) throw new Error("libdatachannel does not restart ICE");
    const described = new Promise((resolve) => (this.#described = resolve));
    this.open();
    return described;
  }

  async createAnswer() {
    return this.localDescription;
  }

  async setLocalDescription() {}

  async setRemoteDescription({ type, sdp }) {
    const described = new Promise((resolve) => (this.#described = resolve));
    this.pc.setRemoteDescription(sdp, type);
    this.remoteDescription = { type, sdp };
    if (type === "offer") await described;
  }

  async addIceCandidate(candidate) {
    if (candidate?.candidate) this.pc.addRemoteCandidate(candidate.candidate, candidate.sdpMid ?? "");
  }

  close() {
    this.pc.close();
  }
}

function watch(track) {
  const counter = new KeyframeCounter(emit);
  track.setMediaHandler(new rtc.RtcpReceivingSession());
  track.onMessage((bytes) => counter.onBytes(bytes));
  kept.push(track);
}

function capture({ pc }) {
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
  const timer = setInterval(() => {
    if (!track.isOpen()) return;
    config.timestamp = Math.floor(performance.now() * 90) >>> 0;
    track.sendMessageBinary(accessUnit);
    emit("picture");
  }, EVERY);
  kept.push(track, config, packetizer);
  return () => clearInterval(timer);
}

await run({ newConnection: (iceServers) => new Connection(iceServers), watch, capture });
