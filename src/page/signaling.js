// The signaling socket of the wire contract: a login token is exchanged for a short-lived signaling token, which
// opens the socket and is renewed before it expires; after a loss, a new token opens the next socket.

const SUBPROTOCOL = "orion.v1";

/** Delays before each reconnect, ms; up to `JITTER` is added. */
const BACK_OFF = [0, 300, 1200, 2700, 4800, 7000];
const JITTER = 1000;

/** A socket that was open this long resets the delays, ms. */
const STABLE_AFTER = 10_000;

/** The token is renewed this long before it expires, seconds. */
const RENEW_BEFORE = 60;

const TOKEN_TIMEOUT = 10_000;

/** Close codes after which reconnecting is pointless. */
const FATAL_CODES = {
  4500: "the token was rejected",
  4501: "messages for another pair",
  4502: "this device has joined from another client",
  4503: "the pair was revoked",
  4504: "messages that the server does not understand",
};

const wait = (time) => new Promise((resolve) => setTimeout(resolve, time));

/** The membership of one device in the room of its pair. */
export class Signaling {
  iceServers = [];
  pairId = null;

  /**
   * `mode` is the response of `mode`; `on` has `opened()`, `message(object)`, `line(text)` and
   * `ended(reason)`.
   */
  constructor(mode, { deviceId, login }, on) {
    Object.assign(this, { mode, deviceId, login, on });
    this.socket = null;
    this.over = false;
  }

  /** Joins and stays until `leave` or an unrecoverable error. */
  async run() {
    let attempt = 0;
    while (!this.over) {
      try {
        const response = await this.token();
        if (this.over) return;
        const duration = await this.live(response);
        if (duration > STABLE_AFTER) attempt = 0;
      } catch (error) {
        if (this.over) return;
        if (error.final) {
          this.end(error.message);
          return;
        }
        this.on.line(`signaling: ${error.message} (retrying)`);
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

  /** Sends bye and closes the socket. */
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

  /** Fetches a new token; an error is `final` if retrying would not help. */
  async token() {
    const response = await fetch(this.mode.tokenUrl, {
      method: "POST",
      headers: { Authorization: `Bearer ${this.login}`, "Content-Type": "application/json" },
      body: JSON.stringify({ deviceId: this.deviceId }),
      signal: AbortSignal.timeout(TOKEN_TIMEOUT),
    }).catch(() => {
      throw new Error("no token: the server does not respond");
    });
    const body = await response.json().catch(() => ({}));
    if (!response.ok) {
      const error = new Error(`no token: ${body.message ?? `HTTP ${response.status}`}`);
      error.final = response.status < 500 && response.status !== 429;
      error.after = 1e3 * (Number(response.headers.get("Retry-After")) || 0);
      throw error;
    }
    this.pairId = body.pairId;
    this.iceServers = body.iceServers ?? [];
    return body;
  }

  /** Runs one socket; resolves with how long it was open, ms. */
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
        const cause = reason || FATAL_CODES[code] || `closed with code ${code}`;
        if (code >= 4500 && code <= 4999) this.end(`signaling: ${cause}`);
        if (opened === null) reject(new Error("the server rejected the socket"));
        else {
          if (!this.over) this.on.line(`signaling: ${cause} (retrying)`);
          resolve(performance.now() - opened);
        }
      };
    });
  }

  /** Schedules the renewal; short-lived tokens are renewed at half of their lifetime. */
  renewIn(expiresIn) {
    clearTimeout(this.renewal);
    const time = Math.max(expiresIn - RENEW_BEFORE, expiresIn / 2);
    this.renewal = setTimeout(async () => {
      try {
        const response = await this.token();
        this.send("auth", { token: response.token });
        this.renewIn(response.expiresIn);
      } catch (error) {
        this.on.line(`signaling: ${error.message}`);
        if (!error.final && !this.over) this.renewIn(10);
      }
    }, time * 1e3);
  }
}
