// Control messages of the wire contract: JSON text on data channels. Each peer sends requests on the channel it
// opened; a response is sent on the channel of its request. The channels may lose messages.

const PING_EVERY = 1000;

/** A text message without an `ack` within this time may not have been delivered, ms. */
const ACK_TIMEOUT = 2000;

/** Maximum number of outstanding pings. */
const MAX_PINGS = 30;

const epochSeconds = () => Date.now() / 1e3;

/** The control channels of successive peer connections. */
export class Control {
  /**
   * `on` has `text(text)`, `keyframe(message)`, `keyframeRequest()`, `set(message)`, which throws if a
   * setting is not possible, and `channel(open)`.
   */
  constructor(on) {
    this.on = on;
    this.lastId = 0;
    this.acks = new Map();
    this.reset();
  }

  /** Resets the state when the connection is closed. */
  reset() {
    clearInterval(this.pinging);
    for (const ack of this.acks.values()) ack("the connection is closed");
    this.acks.clear();
    const unknown = { rttMs: null, clockOffset: null };
    Object.assign(this, { own: null, theirs: null, pings: new Map(), ...unknown });
  }

  /** Handles a channel, opened by this peer (`own`) or by the remote one. */
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

  /** The channel for requests. */
  get open() {
    return [this.own, this.theirs].find((channel) => channel?.readyState === "open") ?? null;
  }

  /** Sends one message, on the channel for requests or a given one. */
  send(message, channel = this.open) {
    if (channel?.readyState !== "open") throw new Error("no open data channel");
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
    if (this.pings.size > MAX_PINGS) this.pings.delete(this.pings.keys().next().value);
    this.send({ t: "ping", id, ts: epochSeconds() });
  }

  /** Sends a text message; resolves with a warning if its delivery is uncertain. */
  async say(text) {
    const id = this.id();
    this.send({ t: "text", id, text });
    const error = await new Promise((resolve) => {
      this.acks.set(id, resolve);
      setTimeout(() => resolve(undefined), ACK_TIMEOUT);
    });
    this.acks.delete(id);
    if (error) throw new Error(error);
    return error === undefined ? "sent, but not acknowledged" : undefined;
  }

  onMessage(data, channel) {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    const { t, id } = message ?? {};
    if (t === "ping") this.respond({ t: "pong", id, ts: message.ts, at: epochSeconds() }, channel);
    if (t === "pong") this.onPong(message);
    if (t === "ack") this.acks.get(id)?.(message.error ?? null);
    if (t === "keyframe") this.on.keyframe(message);
    if (t === "keyframe-request") this.on.keyframeRequest();
    if (t === "text") {
      this.respond({ t: "ack", id }, channel);
      this.on.text(String(message.text));
    }
    if (t === "set") {
      let error;
      try {
        this.on.set(message);
      } catch (reason) {
        error = reason.message;
      }
      // JSON omits undefined values.
      this.respond({ t: "ack", id, error }, channel);
    }
  }

  respond(message, channel) {
    if (channel.readyState === "open") this.send(message, channel);
  }

  onPong({ id, ts, at }) {
    const sent = this.pings.get(id);
    if (sent === undefined) return;
    this.pings.delete(id);
    const rttMs = performance.now() - sent;
    this.rttMs = rttMs;
    // The fastest response gives the best estimate of the clock offset (RFC 5905, section 8).
    if (typeof at === "number" && !(this.clockOffset?.rttMs <= rttMs)) {
      this.clockOffset = { seconds: at - ts - rttMs / 2e3, rttMs };
    }
  }
}
