// The app on a stack with the interface of RTCPeerConnection (W3C webrtc-pc): the page of a browser, werift, and
// stacks that are wrapped accordingly.

import { serve } from "./control.js";
import { pause } from "./room.js";

const OVER = ["closed", "failed"];

/** The phone's control channel, as in the contract. */
const CONTROL = { ordered: false, maxPacketLifeTime: 100 };

const fingerprint = (sdp) => /^a=fingerprint:(.*?)\r?$/m.exec(sdp)?.[1].toUpperCase();

/** One end of a call. `newConnection(iceServers)` creates a connection; `watch(event)` handles a received track;
 * `capture(pc)` adds the phone's track and returns a function that ends it. With `renew`, an offer with another fingerprint gets
 * a new connection; with `talk`, texts are sent. */
export class App {
  #pc = null;
  #early = [];
  #stop = null;

  constructor({ role, answerAfter = 0, renew = false, talk = false, newConnection, watch, capture, emit }) {
    Object.assign(this, { role, answerAfter, renew, talk, newConnection, watch, capture, emit });
  }

  /** Joins the room; then the phone offers, and the Mac waits. */
  async start(room) {
    this.room = room;
    await room.join();
    if (this.role === "phone") await this.#offer();
  }

  #connect() {
    const pc = this.newConnection(this.room.iceServers);
    this.emit("connection", { state: "new" });
    pc.onicecandidate = ({ candidate }) => {
      if (pc === this.#pc) this.room.send("ice", { candidate: candidate ? (candidate.toJSON?.() ?? candidate) : null });
    };
    pc.onconnectionstatechange = () => {
      if (pc === this.#pc) this.emit("connection", { state: pc.connectionState });
    };
    pc.ontrack = (event) => this.watch(event);
    pc.ondatachannel = ({ channel }) => serve(channel, this.emit, this.talk && this.role === "mac");
    this.#pc = pc;
    return pc;
  }

  #drop() {
    this.stop();
    this.#pc?.close();
    this.#pc = null;
    this.#early = [];
  }

  /** Offers a new connection. */
  async #offer() {
    this.#drop();
    const pc = this.#connect();
    serve(pc.createDataChannel("control", CONTROL), this.emit, this.talk);
    this.#stop = await this.capture(pc);
    await this.#describe(pc, await pc.createOffer());
  }

  /** Sends no more pictures. */
  stop() {
    this.#stop?.();
    this.#stop = null;
  }

  /** Restarts ICE on the existing connection. */
  async restart() {
    await this.#describe(this.#pc, await this.#pc.createOffer({ iceRestart: true }));
  }

  async #describe(pc, description) {
    await pc.setLocalDescription(description);
    const { type, sdp } = pc.localDescription;
    this.room.send(type, { sdp });
  }

  async onMessage({ t, sdp, candidate, connection }) {
    if (t === "offer") await this.#answer(sdp);
    else if (t === "answer") await this.#pc.setRemoteDescription({ type: "answer", sdp }).then(() => this.#addEarly());
    else if (t === "ice" && this.#pc?.remoteDescription) await this.#pc.addIceCandidate(candidate ?? undefined);
    else if (t === "ice") this.#early.push(candidate);
    // The Mac does not know this connection; a first offer may still be waiting for its answer.
    else if (t === "state" && this.role === "phone" && connection === "new" && this.#pc.remoteDescription) await this.#offer();
  }

  /** An offer is applied to the existing connection unless that has ended. */
  async #answer(sdp) {
    if (this.answerAfter > 0) await pause(this.answerAfter);
    const known = this.#pc?.remoteDescription;
    const other = this.renew && known && fingerprint(known.sdp) !== fingerprint(sdp);
    if (this.#pc && (other || OVER.includes(this.#pc.connectionState))) {
      const early = this.#early;
      this.#drop();
      this.#early = early;
    }
    const pc = this.#pc ?? this.#connect();
    await pc.setRemoteDescription({ type: "offer", sdp });
    await this.#describe(pc, await pc.createAnswer());
    await this.#addEarly();
  }

  async #addEarly() {
    for (const candidate of this.#early.splice(0)) await this.#pc.addIceCandidate(candidate ?? undefined);
  }
}
