// A native libwebrtc (npm @roamhq/wrtc) as the foreign peer, in a process of its own, which it crashes at its end. It
// does what its parent says: `{id, name, args}` calls a method, `{id, name}` reads a field.
//
// It has no H.264: to get a connection at all, H.264 is written into its descriptions in VP8's place, and no picture
// passes; ICE, DTLS, SCTP and the control channel are its own.

import wrtc from "@roamhq/wrtc";
import { WebSocket } from "ws";

const FMTP = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";

/** VP8 becomes H.264 in what is sent, and the other way round in what comes. */
const asH264 = (sdp) => sdp.replace(/^a=rtpmap:(\d+) VP8\/90000\r\n/m, `a=rtpmap:$1 H264/90000\r\na=fmtp:$1 ${FMTP}\r\n`);
const asVp8 = (sdp) => sdp.replace(/^a=rtpmap:(\d+) H264\/90000\r\n/m, "a=rtpmap:$1 VP8/90000\r\n")
  .replace(/^a=fmtp:\d+ .*profile-level-id.*\r\n/m, "");

/** The wire contract, as the page in Chromium speaks it. */
class NativePeer {
  signals = [];
  controls = [];
  problems = [];
  channels = {};
  #early = [];
  #last = Promise.resolve();

  /** Joins the room with what the token API said; `h264` writes H.264 into its descriptions. */
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

  /** Whether our channel is there. */
  hasTheirs() {
    return this.channels.theirs !== undefined;
  }

  /** Offers a video, unless it is left out, and a control channel. */
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

// The parent is gone: so is this, without its end.
process.on("disconnect", () => process.kill(process.pid, "SIGKILL"));
