// The app on a stack with the W3C interface (W3C webrtc-pc): Chromium's page and werift.

import { pause } from "./room.js";

const OVER = ["closed", "failed"];

/** The phone's control channel, as the contract has it. */
const CONTROL = { ordered: false, maxPacketLifeTime: 100 };

/** One end of a call. `newConnection(iceServers)` makes a connection; `watch(event)` looks at a track that came;
 * `capture(pc)` adds the phone's track. */
export class App {
  #pc = null;
  #early = [];

  constructor({ role, answerAfter = 0, newConnection, watch, capture, emit }) {
    Object.assign(this, { role, answerAfter, newConnection, watch, capture, emit });
  }

  /** In the room: the phone offers, the Mac waits. */
  async start(room) {
    this.room = room;
    await room.join();
    if (this.role !== "phone") return;
    const pc = this.#connect();
    this.#listen(pc.createDataChannel("control", CONTROL));
    await this.capture(pc);
    await pc.setLocalDescription(await pc.createOffer());
    room.send("offer", { sdp: pc.localDescription.sdp });
  }

  #connect() {
    const pc = this.newConnection(this.room.iceServers);
    this.emit("connection", { state: "new" });
    pc.onicecandidate = ({ candidate }) =>
      this.room.send("ice", { candidate: candidate ? candidate.toJSON() : null });
    pc.onconnectionstatechange = () => {
      if (pc === this.#pc) this.emit("connection", { state: pc.connectionState });
    };
    pc.ontrack = (event) => this.watch(event);
    pc.ondatachannel = ({ channel }) => this.#listen(channel);
    this.#pc = pc;
    return pc;
  }

  #listen(channel) {
    channel.onopen = () => this.emit("channel", { label: channel.label });
    channel.onmessage = ({ data }) => {
      const { t, id, ts, seq } = JSON.parse(data);
      if (t === "ping") channel.send(JSON.stringify({ t: "pong", id, ts }));
      if (t === "text") channel.send(JSON.stringify({ t: "ack", id }));
      if (t === "keyframe") this.emit("announced", { seq });
    };
  }

  async onMessage({ t, sdp, candidate }) {
    if (t === "offer") await this.#answer(sdp);
    else if (t === "answer") await this.#pc.setRemoteDescription({ type: "answer", sdp }).then(() => this.#addEarly());
    else if (t === "ice" && this.#pc?.remoteDescription) await this.#pc.addIceCandidate(candidate ?? undefined);
    else if (t === "ice") this.#early.push(candidate);
  }

  /** Every offer goes to the connection there is, another fingerprint too, unless that connection has ended. */
  async #answer(sdp) {
    if (this.answerAfter > 0) await pause(this.answerAfter);
    if (this.#pc && OVER.includes(this.#pc.connectionState)) {
      this.#pc.close();
      this.#pc = null;
    }
    const pc = this.#pc ?? this.#connect();
    await pc.setRemoteDescription({ type: "offer", sdp });
    await pc.setLocalDescription(await pc.createAnswer());
    this.room.send("answer", { sdp: pc.localDescription.sdp });
    await this.#addEarly();
  }

  async #addEarly() {
    for (const candidate of this.#early.splice(0)) await this.#pc.addIceCandidate(candidate ?? undefined);
  }
}
