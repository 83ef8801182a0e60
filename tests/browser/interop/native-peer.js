// A native libwebrtc (npm @roamhq/wrtc) as the foreign peer, in a separate process, because it crashes on exit. Its
// parent controls it: `{id, name, args}` calls a method, `{id, name}` reads a field.
//
// It has no H.264: to get a connection at all, VP8 is replaced by H.264 in its descriptions, and no picture is
// transferred; ICE, DTLS, SCTP and the control channel are its own.

import wrtc from "@roamhq/wrtc";
import { WebSocket } from "ws";

const FMTP = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";

/** Replaces VP8 by H.264 in sent descriptions, and vice versa in received ones. */
const asH264 = (sdp) => sdp.replace(/^a=rtpmap:(\d+) VP8\/90000\r\n/m, `a=rtpmap:$1 H264/90000\r\na=fmtp:$1 ${FMTP}\r\n`);
const asVp8 = (sdp) => sdp.replace(/^a=rtpmap:(\d+) H264\/90000\r\n/m, "a=rtpmap:$1 VP8/90000\r\n")
  .replace(/^a=fmtp:\d+ .*profile-level-id.*\r\n/m, "");

/** The wire contract, like the page in Chromium. */
class NativePeer {
  signals = [];
  controls = [];
  problems = [];
  channels = {};
  #early = [];
  #last = Promise.resolve();

  /** Joins the room with the answer of the token API; `h264` writes H.264 into its descriptions. */
  async join({ signal, token, pairId, iceServers, h264 }) {
    Object.assign(this, { pairId, h264 });
    this.pc = new wrtc.RTCPeerConnection({ iceServers });
    this.pc.onicecandidate = ({ candidate }) => this.#send("ice", { candidate: candidate ? candidate.toJSON() : null });
    this.pc.ondatachannel = ({ channel }) => this.#listen(channel, "theirs");
    this.socket = new WebSocket(signal, ["orion.v1", `bearer.${token}`]);
    this.socket.on("message", (data) => {
      this.#last = this.#last.then(() => this.#onSignal(JSON.parse(data))).catch((error) => this.problems.push(String(error)));
    });
    await new Promise((resolve, reject) => this.socket.on("open", resolve).on("error", reject));
  }

  #send(t, fields) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ t, pairId: this.pairId, ...fields }));
  }

  async #onSignal(message) {
    this.signals.push(message);
    const { pc } = this;
    if (message.t === "offer" || message.t === "answer") {
      const sdp = this.h264 ? asVp8(message.sdp) : message.sdp;
      await pc.setRemoteDescription({ type: message.t, sdp });
      if (message.t === "offer") {
        await pc.setLocalDescription(await pc.createAnswer());
        this.#describe("answer");
      }
      for (const candidate of this.#early.splice(0)) await pc.addIceCandidate(candidate);
    } else if (message.t === "ice" && message.candidate) {
      if (pc.remoteDescription) await pc.addIceCandidate(message.candidate);
      else this.#early.push(message.candidate);
    }
  }

  #describe(t) {
    const { sdp } = this.pc.localDescription;
    this.#send(t, { sdp: this.h264 ? asH264(sdp) : sdp });
  }

  #listen(channel, on) {
    this.channels[on] = channel;
    channel.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      this.controls.push({ on, ...message });
      if (message.t === "ping") channel.send(JSON.stringify({ t: "pong", id: message.id, ts: message.ts }));
    };
  }

  openChannel() {
    this.#listen(this.pc.createDataChannel("control", { ordered: false, maxPacketLifeTime: 100 }), "own");
  }

  /** Whether orion-peer's channel exists. */
  hasTheirs() {
    return this.channels.theirs !== undefined;
  }

  /** Offers a control channel, and a video unless disabled. */
  async offer({ video = true } = {}) {
    if (video) this.pc.addTransceiver("video", { direction: "sendonly" });
    this.openChannel();
    await this.pc.setLocalDescription(await this.pc.createOffer());
    this.#describe("offer");
  }

  say(on, message) {
    const channel = this.channels[on];
    if (channel?.readyState !== "open") return false;
    channel.send(JSON.stringify(message));
    return true;
  }
}

const peer = new NativePeer();

process.on("message", async ({ id, name, args }) => {
  try {
    const value = args ? await peer[name](...args) : peer[name];
    process.send({ id, value: value ?? null });
  } catch (error) {
    process.send({ id, error: String(error) });
  }
});

// When the parent ends, this process is killed to avoid the crash on exit.
process.on("disconnect", () => process.kill(process.pid, "SIGKILL"));
