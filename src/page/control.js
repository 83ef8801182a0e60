// Control messages of the wire contract: JSON text on data channels. Each side asks on the channel it
// opened; an answer goes back on the channel the question came on. The channels may lose messages.

const PING_EVERY = 1000;

/** A text without an `ack` by then may not have come, ms. */
const ACK_WITHIN = 2000;

/** Pings whose answers are waited for. */
const PINGS = 30;

const epochSeconds = () => Date.now() / 1e3;

/** The control channels of one peer connection after the other. */
export class Control {
  /**
   * `on` has `text(text)`, `keyframe(message)`, `keyframeRequest()`, `set(message)`, which may throw
   * what cannot be done, and `channel(open)`.
   */
  constructor(on) {
    this.on = on;
    this.lastId = 0;
    this.acks = new Map();
    this.reset();
  }

  /** The connection is gone. */
  reset() {
    clearInterval(this.pinging);
    for (const ack of this.acks.values()) ack("the connection is gone");
    this.acks.clear();
    const unknown = { rttMs: null, clockOffset: null };
    Object.assign(this, { own: null, theirs: null, pings: new Map(), ...unknown });
  }

  /** Takes part on a channel, that this side opened or the other. */
  listen(channel, own) {
    this[own ? "own" : "theirs"] = channel;
    channel.onmessage = ({ data }) => {
      if (typeof data === "string") this.onMessage(data, channel);
    };
    channel.onopen = () => {
      this.on.channel(true);
      clearInterval(this.pinging);
      this.pinging = setInterval(() => this.ping(), PING_EVERY);
    };
    channel.onclose = () => {
      if (channel === this.own || channel === this.theirs) this.on.channel(this.open !== null);
    };
  }

  /** The channel to ask on. */
  get open() {
    return [this.own, this.theirs].find((channel) => channel?.readyState === "open") ?? null;
  }

  /** Sends one message, on the channel to ask on or a given one. */
  send(message, channel = this.open) {
    if (channel?.readyState !== "open") throw new Error("there is no open data channel");
    channel.send(JSON.stringify(message));
  }

  id() {
    this.lastId += 1;
    return this.lastId;
  }

  ping() {
    if (this.open === null) return;
    const id = this.id();
    this.pings.set(id, performance.now());
    if (this.pings.size > PINGS) this.pings.delete(this.pings.keys().next().value);
    this.send({ t: "ping", id, ts: epochSeconds() });
  }

  /** Sends a text; gives what to tell when it is not certain that it came. */
  async say(text) {
    const id = this.id();
    this.send({ t: "text", id, text });
    const error = await new Promise((resolve) => {
      this.acks.set(id, resolve);
      setTimeout(() => resolve(undefined), ACK_WITHIN);
    });
    this.acks.delete(id);
    if (error) throw new Error(error);
    return error === undefined ? "sent, but no acknowledgement came" : undefined;
  }

  onMessage(data, channel) {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    const { t, id } = message ?? {};
    if (t === "ping") this.answer({ t: "pong", id, ts: message.ts, at: epochSeconds() }, channel);
    if (t === "pong") this.onPong(message);
    if (t === "ack") this.acks.get(id)?.(message.error ?? null);
    if (t === "keyframe") this.on.keyframe(message);
    if (t === "keyframe-request") this.on.keyframeRequest();
    if (t === "text") {
      this.answer({ t: "ack", id }, channel);
      this.on.text(String(message.text));
    }
    if (t === "set") {
      let error;
      try {
        this.on.set(message);
      } catch (refusal) {
        error = refusal.message;
      }
      // What is undefined is left out of the JSON.
      this.answer({ t: "ack", id, error }, channel);
    }
  }

  answer(message, channel) {
    if (channel.readyState === "open") this.send(message, channel);
  }

  onPong({ id, ts, at }) {
    const sent = this.pings.get(id);
    if (sent === undefined) return;
    this.pings.delete(id);
    const rttMs = performance.now() - sent;
    this.rttMs = rttMs;
    // The fastest answer tells best how far the other clock is ahead (RFC 5905, section 8).
    if (typeof at === "number" && !(this.clockOffset?.rttMs <= rttMs)) {
      this.clockOffset = { seconds: at - ts - rttMs / 2e3, rttMs };
    }
  }
}
