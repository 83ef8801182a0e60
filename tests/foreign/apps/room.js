// The signaling client of an app, exactly as in the wire contract: a token, a socket, messages in order, and a new
// socket when the old one is lost. Runs in Node.js and on a page.

/** Delays before the next attempts to join, ms. */
const BACK_OFF = [0, 300, 1200, 2700, 4800, 7000];

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Room {
  #socket = null;
  #attempt = 0;
  #away = false;
  #left = false;

  /** `cut` ends a socket without a closing handshake; `onMessage` is called for one message after the other. */
  constructor({ api, device, WebSocket, cut, emit, onMessage }) {
    Object.assign(this, { api, device, WebSocket, cut, emit, onMessage });
  }

  async #token() {
    const response = await fetch(`${this.api}/api/auth/webrtc-token`, {
      method: "POST",
      headers: { Authorization: "Bearer dev", "Content-Type": "application/json" },
      body: JSON.stringify({ deviceId: this.device }),
    });
    if (!response.ok) throw new Error(`token API: ${response.status} ${await response.text()}`);
    return response.json();
  }

  /** Joins with retries; resolves once in the room. */
  async join() {
    while (!this.#left) {
      await pause(BACK_OFF[Math.min(this.#attempt, BACK_OFF.length - 1)]);
      this.#attempt += 1;
      try {
        return await this.#open();
      } catch (error) {
        this.emit("error", { message: `signaling: ${error.message}` });
      }
    }
  }

  async #open() {
    const { token, pairId, iceServers } = await this.#token();
    this.pairId = pairId;
    this.iceServers = iceServers;
    const url = `${this.api.replace(/^http/, "ws")}/api/signal`;
    const socket = new this.WebSocket(url, ["orion.v1", `bearer.${token}`]);
    // Messages may follow the handshake immediately: a listener added only after `open` misses a held offer.
    let last = new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = () => reject(new Error("the socket was refused"));
    });
    const opened = last;
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      this.emit("signal", { what: message.t, ...described(message) });
      last = last.then(() => this.onMessage(message)).catch((error) => {
        this.emit("error", { message: `${message.t}: ${error.message ?? error}` });
      });
    };
    await opened;
    this.#socket = socket;
    this.#attempt = 0;
    this.emit("joined");
    socket.onclose = ({ code }) => {
      this.#socket = null;
      this.emit("left", { code });
      if (!this.#away && !this.#left) this.join();
    };
  }

  /** Sends a message; drops it while there is no socket. */
  send(t, fields = {}) {
    if (!this.#socket) return this.emit("unsent", { what: t });
    this.#socket.send(JSON.stringify({ t, pairId: this.pairId, ...fields }));
    this.emit("sent", { what: t });
  }

  /** Cuts the socket without a closing handshake, and opens a new one after `ms`. */
  async drop(ms) {
    this.#away = true;
    this.cut(this.#socket);
    await pause(ms);
    this.#away = false;
    await this.join();
  }

  leave() {
    this.#left = true;
    this.send("bye", { reason: "done" });
    this.#socket?.close();
  }
}

/** The properties of a description that the test checks. */
function described({ sdp }) {
  if (!sdp) return {};
  return {
    fingerprint: /^a=fingerprint:(.*?)\r?$/m.exec(sdp)?.[1],
    ufrag: /^a=ice-ufrag:(\S+)/m.exec(sdp)?.[1],
  };
}
