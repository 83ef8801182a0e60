// The signaling socket of the wire contract: a login token becomes a short-lived one, that opens the
// socket, is renewed before it expires, and after a loss a fresh one opens the next socket.

const SUBPROTOCOL = "orion.v1";

/** Waits before each new try, ms; up to `JITTER` is added. */
const BACK_OFF = [0, 300, 1200, 2700, 4800, 7000];
const JITTER = 1000;

/** A socket that lived this long was a good one: the waits begin anew, ms. */
const GOOD_AFTER = 10_000;

/** The token is renewed this long before it expires, seconds. */
const RENEW_BEFORE = 60;

const TOKEN_WITHIN = 10_000;

/** Close codes that end it. */
const ENDS = {
  4500: "the token was refused",
  4501: "messages for another pair",
  4502: "this device has joined again elsewhere",
  4503: "the pair was revoked",
  4504: "messages the server does not understand",
};

const wait = (time) => new Promise((resolve) => setTimeout(resolve, time));

/** One device's place in the room of its pair. */
export class Signaling {
  iceServers = [];
  pairId = null;

  /**
   * `mode` is the answer of `mode`; `on` has `opened()`, `message(object)`, `line(text)` and
   * `ended(reason)`.
   */
  constructor(mode, { deviceId, login }, on) {
    Object.assign(this, { mode, deviceId, login, on });
    this.socket = null;
    this.over = false;
  }

  /** Joins, and stays until `leave` or something that cannot be mended. */
  async run() {
    let attempt = 0;
    while (!this.over) {
      try {
        const answer = await this.token();
        if (this.over) return;
        const lived = await this.live(answer);
        if (lived > GOOD_AFTER) attempt = 0;
      } catch (error) {
        if (this.over) return;
        if (error.final) {
          this.end(error.message);
          return;
        }
        this.on.line(`signaling: ${error.message} (trying again)`);
        await wait(error.after ?? 0);
      }
      await wait(BACK_OFF[Math.min(attempt, BACK_OFF.length - 1)] + Math.random() * JITTER);
      attempt += 1;
    }
  }

  /** Sends one message; false while there is no socket. */
  send(t, fields) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify({ t, pairId: this.pairId, ...fields }));
    return true;
  }

  /** Says goodbye and closes. */
  leave(reason) {
    this.over = true;
    this.send("bye", { reason });
    this.socket?.close(1000);
  }

  end(reason) {
    if (this.over) return;
    this.over = true;
    this.on.ended(reason);
  }

  /** A fresh token; an error is `final` when trying again would not help. */
  async token() {
    const answer = await fetch(this.mode.tokenUrl, {
      method: "POST",
      headers: { Authorization: `Bearer ${this.login}`, "Content-Type": "application/json" },
      body: JSON.stringify({ deviceId: this.deviceId }),
      signal: AbortSignal.timeout(TOKEN_WITHIN),
    }).catch(() => {
      throw new Error("no token: the server does not answer");
    });
    const body = await answer.json().catch(() => ({}));
    if (!answer.ok) {
      const error = new Error(`no token: ${body.message ?? `HTTP ${answer.status}`}`);
      error.final = answer.status < 500 && answer.status !== 429;
      error.after = 1e3 * (Number(answer.headers.get("Retry-After")) || 0);
      throw error;
    }
    this.pairId = body.pairId;
    this.iceServers = body.iceServers ?? [];
    return body;
  }

  /** The life of one socket; resolves with how long it was open, ms. */
  live({ token, expiresIn }) {
    const url = new URL(this.mode.signal, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url, [SUBPROTOCOL, `bearer.${token}`]);
    this.socket = socket;
    let opened = null;
    socket.onopen = () => {
      opened = performance.now();
      this.renewIn(expiresIn);
      this.on.opened();
    };
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.on.message(JSON.parse(data));
    };
    return new Promise((resolve, reject) => {
      socket.onclose = ({ code, reason }) => {
        clearTimeout(this.renewal);
        const why = reason || ENDS[code] || `closed with code ${code}`;
        if (code >= 4500 && code <= 4999) this.end(`signaling: ${why}`);
        if (opened === null) reject(new Error("the socket was refused"));
        else {
          if (!this.over) this.on.line(`signaling: ${why} (trying again)`);
          resolve(performance.now() - opened);
        }
      };
    });
  }

  /** A token that lives shortly is renewed at half its life. */
  renewIn(expiresIn) {
    clearTimeout(this.renewal);
    const time = Math.max(expiresIn - RENEW_BEFORE, expiresIn / 2);
    this.renewal = setTimeout(async () => {
      try {
        const answer = await this.token();
        this.send("auth", { token: answer.token });
        this.renewIn(answer.expiresIn);
      } catch (error) {
        this.on.line(`signaling: ${error.message}`);
        if (!error.final && !this.over) this.renewIn(10);
      }
    }, time * 1e3);
  }
}
