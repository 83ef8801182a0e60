// One side of a call: W3C peer connections made over signaling as the wire contract has it. The
// phone offers, the Mac answers. A renegotiation keeps the peer connection; another DTLS certificate
// of the other side means another peer connection.

import { Control } from "./control.js";

/** An offer without an answer is sent again after this time, ms. */
const OFFER_AGAIN = 4000;

/** ICE may be `disconnected` this long before it is restarted, ms. */
const PATIENCE = 4000;

/** A connection that failed is made anew after this time, ms. */
const ANEW_AFTER = 1000;

const CHANNEL = ["control", { ordered: false, maxPacketLifeTime: 100 }];

const fingerprint = (sdp) => /^a=fingerprint:(.*?)\r?$/m.exec(sdp ?? "")?.[1];

/** The same side across connections that are lost and made again. */
export class Call {
  /**
   * `offers` tells the phone from the Mac; `send(t, fields)` and `iceServers()` are signaling's; `on`
   * has `state(text)`, `line(text)`, `pc(pc)` for what else a new connection needs, `dropped()`, and
   * what `Control` calls.
   */
  constructor({ offers, other, send, iceServers, on }) {
    Object.assign(this, { offers, other, send, iceServers, on });
    this.control = new Control(on);
    this.pc = null;
    /** Our description as it was sent, to be sent again when it went astray, and its candidates. */
    this.local = null;
    this.candidates = [];
    this.early = [];
    /** Socket of the other device, when it came after this one. */
    this.remoteConn = null;
    this.remoteLeft = false;
    this.toldHello = false;
    this.work = Promise.resolve();
  }

  /** One thing after the other: a candidate must not overtake the offer before it. */
  run(act) {
    this.work = this.work.then(act).catch((error) => this.on.line(`connection: ${error.message}`));
  }

  /** The signaling socket is open: once, or again. */
  opened() {
    this.run(async () => {
      // While media is up there is nothing to say, unless ICE is being restarted.
      if (this.connected && !this.restarting) return;
      if (!this.connected) this.on.state(`waiting for the ${this.other}`);
      if (this.offers && this.pc === null) await this.offer();
      else this.describeAgain();
    });
  }

  /** A signaling message; an unknown `t` is ignored. */
  onMessage(message) {
    const act = {
      hello: ({ peerPresent }) => {
        this.toldHello = true;
        if (!peerPresent) this.on.line(`in the room; the ${this.other} is not there yet`);
      },
      "peer-joined": ({ connId }) => this.onPeerJoined(connId),
      "peer-left": ({ reason }) => {
        this.remoteLeft = true;
        this.on.line(`the ${this.other} left the room (${reason})`);
      },
      offer: ({ sdp }) => this.onOffer(sdp),
      answer: ({ sdp }) => this.onAnswer(sdp),
      ice: ({ candidate }) => this.onCandidate(candidate),
      bye: ({ reason }) => {
        this.drop();
        this.on.line(`the ${this.other} said goodbye${reason ? `: ${reason}` : ""}`);
        this.on.state(`waiting for the ${this.other}`);
      },
      error: ({ code, message: text }) => this.on.line(`signaling server: ${code}: ${text}`),
    }[message.t];
    if (act) this.run(() => act(message));
  }

  async onPeerJoined(connId) {
    this.on.line(`the ${this.other} is in the room`);
    const known = this.remoteConn !== null || this.remoteLeft;
    this.remoteConn = connId;
    if (!this.offers) return;
    // The server hands an offer without an answer to the newcomer itself.
    if (this.pc && !this.pc.remoteDescription) this.offerAgain();
    // Both are back after a restart of the server: media still flows.
    else if (this.connected && !known) return;
    else await this.offer();
  }

  /** A new peer connection in the place of the present one. */
  make() {
    this.drop();
    const pc = new RTCPeerConnection({ iceServers: this.iceServers() });
    this.pc = pc;
    pc.onicecandidate = ({ candidate }) => {
      if (pc !== this.pc) return;
      this.candidates.push(candidate ? candidate.toJSON() : null);
      this.send("ice", { candidate: this.candidates.at(-1) });
    };
    pc.onicecandidateerror = ({ url, errorCode, errorText }) => {
      if (errorCode < 700) this.on.line(`ice server ${url}: ${errorCode} ${errorText}`);
    };
    pc.oniceconnectionstatechange = () => this.run(() => this.onIceState(pc));
    pc.onconnectionstatechange = () => this.run(() => this.onState(pc));
    pc.ondatachannel = ({ channel }) => this.control.listen(channel, false);
    this.control.listen(pc.createDataChannel(...CHANNEL), true);
    this.on.pc(pc);
    return pc;
  }

  /** Closes the peer connection. */
  drop() {
    clearTimeout(this.timer);
    clearTimeout(this.again);
    this.pc?.close();
    this.control.reset();
    Object.assign(this, { pc: null, local: null, connected: false, restarting: null, candidates: [] });
    // Candidates that came before the offer may be of the next connection.
    if (this.offers) this.early = [];
    this.on.dropped();
  }

  async offer() {
    this.make();
    await this.describe("offer");
    this.offerAgain();
  }

  async describe(t) {
    this.candidates = [];
    await this.pc.setLocalDescription();
    this.local = [t, { sdp: this.pc.localDescription.sdp }];
    this.send(...this.local);
  }

  /** Sends our description and candidates once more. */
  describeAgain() {
    if (!this.local || (this.offers && this.pc.signalingState === "stable")) return;
    this.send(...this.local);
    for (const candidate of this.candidates) this.send("ice", { candidate });
  }

  offerAgain() {
    clearTimeout(this.again);
    this.again = setTimeout(() => this.run(() => {
      if (this.pc?.signalingState !== "have-local-offer") return;
      // A server that said hello holds the offer itself while the other device is away.
      if (!this.toldHello || this.remoteConn !== null || this.restarting) this.describeAgain();
      this.offerAgain();
    }), OFFER_AGAIN);
  }

  async onOffer(sdp) {
    // Both offer: the phone is the impolite side (W3C perfect negotiation).
    if (this.offers) return;
    const old = this.pc?.remoteDescription?.sdp;
    if (old && sdp === this.remoteSdp) {
      this.describeAgain();
      return;
    }
    if (!old || fingerprint(old) !== fingerprint(sdp)) this.make();
    else this.pc.setConfiguration?.({ iceServers: this.iceServers() });
    this.remoteSdp = sdp;
    await this.pc.setRemoteDescription({ type: "offer", sdp });
    await this.describe("answer");
    await this.addEarly();
  }

  async onAnswer(sdp) {
    if (!this.offers || this.pc?.signalingState !== "have-local-offer") return;
    if (this.restarting && this.restarting !== fingerprint(sdp)) {
      // The other side has begun anew meanwhile: so do we.
      await this.offer();
      return;
    }
    await this.pc.setRemoteDescription({ type: "answer", sdp });
    await this.addEarly();
    // It came back by itself meanwhile, and tells no other state.
    if (this.restarting && this.pc.connectionState === "connected") this.onState(this.pc);
  }

  async onCandidate(candidate) {
    this.early.push(candidate);
    if (this.pc?.remoteDescription) await this.addEarly();
  }

  async addEarly() {
    const early = this.early.splice(0);
    for (const candidate of early) {
      // One that is not understood, or of a connection that is gone, is no loss.
      await this.pc.addIceCandidate(candidate ?? undefined).catch(() => {});
    }
  }

  onState(pc) {
    if (pc !== this.pc) return;
    if (pc.connectionState === "connected") {
      Object.assign(this, { connected: true, restarting: null });
      this.on.state("connected");
    } else if (!this.connected || pc.connectionState === "disconnected") {
      this.on.state(pc.connectionState);
    }
    // DTLS failed: only another connection helps.
    if (pc.connectionState === "failed" && pc.iceConnectionState !== "failed") this.anew(pc);
  }

  async onIceState(pc) {
    if (pc !== this.pc) return;
    clearTimeout(this.timer);
    const state = pc.iceConnectionState;
    if (!this.offers) {
      if (state === "failed") this.on.line("ICE failed: waiting for another offer");
    } else if (state === "disconnected") {
      this.timer = setTimeout(() => this.run(() => this.restart(pc, "no answer for 4 s")), PATIENCE);
    } else if (state === "failed") {
      if (this.connected && !this.restarting) await this.restart(pc, "ICE failed");
      else this.anew(pc);
    }
  }

  /** Looks for another way on the same connection. */
  async restart(pc, why) {
    if (pc !== this.pc || this.restarting) return;
    this.on.line(`${why}: looking for another way to the ${this.other}`);
    this.on.state("restarting ICE");
    this.restarting = fingerprint(pc.remoteDescription?.sdp) ?? null;
    pc.setConfiguration?.({ iceServers: this.iceServers() });
    pc.restartIce();
    await this.describe("offer");
    this.offerAgain();
  }

  anew(pc) {
    this.on.line("the connection failed: the candidates of both sides do not reach each other");
    if (!this.offers) return;
    this.timer = setTimeout(() => this.run(() => (pc === this.pc ? this.offer() : null)), ANEW_AFTER);
  }

  /** Ends this side: nothing is told any more. */
  close() {
    this.drop();
    this.run = () => {};
  }
}
