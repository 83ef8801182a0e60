// One end of a call: W3C peer connections negotiated over signaling according to the wire contract. The
// phone offers, the Mac answers. A renegotiation keeps the peer connection; a different DTLS certificate
// of the peer means a new peer connection.

import { Control } from "./control.js";

/** An unanswered offer is sent again after this time, ms. */
const OFFER_RETRY = 4000;

/** ICE is restarted after being `disconnected` for this long, ms. */
const DISCONNECTED_TIMEOUT = 4000;

/** A failed connection is replaced after this time, ms. */
const RECONNECT_AFTER = 1000;

const CHANNEL = ["control", { ordered: false, maxPacketLifeTime: 100 }];

const fingerprint = (sdp) => /^a=fingerprint:(.*?)\r?$/m.exec(sdp ?? "")?.[1];

/** One end of a call, across lost and re-established connections. */
export class Call {
  /**
   * `offers` is true for the phone; `send(t, fields)` and `iceServers()` come from signaling; `on` has
   * `state(text)`, `line(text)`, `pc(pc)` to set up a new connection, `dropped()`, and the handlers of
   * `Control`.
   */
  constructor({ offers, other, send, iceServers, on }) {
    Object.assign(this, { offers, other, send, iceServers, on });
    this.control = new Control(on);
    this.pc = null;
    /** The local description as sent, to be sent again if it was lost, and its candidates. */
    this.local = null;
    this.candidates = [];
    this.early = [];
    /** Socket of the other device, if it joined after this one. */
    this.remoteConn = null;
    this.remoteLeft = false;
    this.receivedHello = false;
    this.work = Promise.resolve();
  }

  /** Runs actions in order: a candidate must not overtake its offer. */
  run(act) {
    this.work = this.work.then(act).catch((error) => this.on.line(`connection: ${error.message}`));
  }

  /** The signaling socket is open, for the first time or again. */
  opened() {
    this.run(async () => {
      // While media flows there is nothing to send, unless ICE is being restarted.
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
        this.receivedHello = true;
        if (!peerPresent) this.on.line(`joined the room; the ${this.other} has not joined yet`);
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
        this.on.line(`the ${this.other} ended the call${reason ? `: ${reason}` : ""}`);
        this.on.state(`waiting for the ${this.other}`);
      },
      error: ({ code, message: text }) => this.on.line(`signaling server: ${code}: ${text}`),
    }[message.t];
    if (act) this.run(() => act(message));
  }

  async onPeerJoined(connId) {
    this.on.line(`the ${this.other} joined the room`);
    const known = this.remoteConn !== null || this.remoteLeft;
    this.remoteConn = connId;
    if (!this.offers) return;
    // The server forwards an unanswered offer to the new peer itself.
    if (this.pc && !this.pc.remoteDescription) this.offerAgain();
    // Both have rejoined after a server restart, and media still flows.
    else if (this.connected && !known) return;
    else await this.offer();
  }

  /** Replaces the peer connection. */
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
      if (errorCode < 700) this.on.line(`ICE server ${url}: ${errorCode} ${errorText}`);
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
    // Candidates that arrived before the offer may belong to the next connection.
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

  /** Sends the local description and candidates again. */
  describeAgain() {
    if (!this.local || (this.offers && this.pc.signalingState === "stable")) return;
    this.send(...this.local);
    for (const candidate of this.candidates) this.send("ice", { candidate });
  }

  offerAgain() {
    clearTimeout(this.again);
    this.again = setTimeout(() => this.run(() => {
      if (this.pc?.signalingState !== "have-local-offer") return;
      // A server that sent hello holds the offer while the other device is away.
      if (!this.receivedHello || this.remoteConn !== null || this.restarting) this.describeAgain();
      this.offerAgain();
    }), OFFER_RETRY);
  }

  async onOffer(sdp) {
    // Both offered: the phone is the impolite peer (W3C perfect negotiation).
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
      // The peer has started a new connection in the meantime, so start one, too.
      await this.offer();
      return;
    }
    await this.pc.setRemoteDescription({ type: "answer", sdp });
    await this.addEarly();
    // The connection has recovered in the meantime and will not report another state.
    if (this.restarting && this.pc.connectionState === "connected") this.onState(this.pc);
  }

  async onCandidate(candidate) {
    this.early.push(candidate);
    if (this.pc?.remoteDescription) await this.addEarly();
  }

  async addEarly() {
    const early = this.early.splice(0);
    for (const candidate of early) {
      // Candidates that are invalid or belong to a closed connection are ignored.
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
    // DTLS failed: a new connection is needed.
    if (pc.connectionState === "failed" && pc.iceConnectionState !== "failed") this.reconnect(pc);
  }

  async onIceState(pc) {
    if (pc !== this.pc) return;
    clearTimeout(this.timer);
    const state = pc.iceConnectionState;
    if (!this.offers) {
      if (state === "failed") this.on.line("ICE failed; waiting for a new offer");
    } else if (state === "disconnected") {
      this.timer = setTimeout(() => this.run(() => this.restart(pc, "no response for 4 s")), DISCONNECTED_TIMEOUT);
    } else if (state === "failed") {
      if (this.connected && !this.restarting) await this.restart(pc, "ICE failed");
      else this.reconnect(pc);
    }
  }

  /** Restarts ICE to find another path for the same connection. */
  async restart(pc, reason) {
    if (pc !== this.pc || this.restarting) return;
    this.on.line(`${reason}: looking for another path to the ${this.other}`);
    this.on.state("restarting ICE");
    this.restarting = fingerprint(pc.remoteDescription?.sdp) ?? null;
    pc.setConfiguration?.({ iceServers: this.iceServers() });
    pc.restartIce();
    await this.describe("offer");
    this.offerAgain();
  }

  reconnect(pc) {
    this.on.line("the connection failed: no candidate pair works");
    if (!this.offers) return;
    this.timer = setTimeout(() => this.run(() => (pc === this.pc ? this.offer() : null)), RECONNECT_AFTER);
  }

  /** Ends this call; no further events follow. */
  close() {
    this.drop();
    this.run = () => {};
  }
}
