// A stack without bindings for JavaScript, in a separate process per connection: takes requests on stdin and reports
// events on stdout, one JSON object per line.
//
//   node engine.js COMMAND… --api URL …
//
// Requests: `{"do":"connect","role","iceServers","unit","every","relay"}` first; `offer` (with `restart`) and `remote`
// (with `type` and `sdp`) get one reply each, `{"description":{type,sdp}}`, `{"taken":true}` or `{"error":…}`;
// `candidate`, `say` and `stop` (no more pictures) get none. Events: `candidate`, `state`, `opened` (a channel, by its
// number: the phone's own is 0) with its `label`, `heard` on a `channel`, `unit` (an access unit in hexadecimal digits, with
// its `rtpTimestamp` if the stack has one) and `picture` (one was handed to the stack).

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { createInterface } from "node:readline";

import { emit, options, run } from "./node.js";
import { EVERY } from "./rtp.js";

const { command: [program, ...args], role, unit, relay } = options();
const running = new Set();

const digest = (digits) => createHash("sha256").update(Buffer.from(digits, "hex")).digest("hex");

/** Number of the channel that the phone opens. */
const OWN = 0;

/** A connection with the interface of W3C. */
class Connection {
  connectionState = "new";
  remoteDescription = null;
  localDescription = null;
  channels = new Map();
  #waiting = [];

  constructor(iceServers) {
    this.child = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"] });
    running.add(this);
    this.child.stdin.on("error", () => {});
    this.child.on("error", (error) => emit("error", { message: String(error) }));
    this.child.on("exit", (code) => {
      running.delete(this);
      if (this.connectionState === "closed") return;
      emit("error", { message: `the engine ended with ${code}` });
      this.#state("failed");
    });
    createInterface({ input: this.child.stdout }).on("line", (line) => this.#onLine(JSON.parse(line)));
    this.#request({ do: "connect", role, iceServers, unit, every: EVERY, relay: Boolean(relay) });
  }

  #request(request) {
    this.child.stdin.write(`${JSON.stringify(request)}\n`);
  }

  #reply(request) {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#request(request);
    });
  }

  #state(state) {
    if (this.connectionState === state) return;
    this.connectionState = state;
    this.onconnectionstatechange();
  }

  #onLine(message) {
    if (message.description) this.localDescription = message.description;
    if (message.description || message.taken) this.#waiting.shift()?.resolve(message.description);
    else if (message.error) {
      const waiting = this.#waiting.shift();
      if (waiting) waiting.reject(new Error(message.error));
      else emit("error", { message: message.error });
    } else if (message.candidate) this.onicecandidate({ candidate: message.candidate });
    else if (message.state) this.#state(message.state);
    else if (message.opened !== undefined) this.#opened(message.opened, message.label);
    else if (message.heard !== undefined) this.channels.get(message.channel)?.onmessage?.({ data: message.heard });
    else if (message.unit) emit("keyframe", { rtpTimestamp: message.rtpTimestamp, sha256: digest(message.unit) });
    else if (message.picture) emit("picture");
  }

  #opened(number, label) {
    if (!this.channels.has(number)) this.ondatachannel({ channel: this.#channel(number, label) });
    const channel = this.channels.get(number);
    channel.readyState = "open";
    channel.onopen?.();
  }

  #channel(number, label) {
    const channel = { label, readyState: "connecting", send: (text) => this.#request({ do: "say", channel: number, text }) };
    this.channels.set(number, channel);
    return channel;
  }

  /** Created by the engine with the first offer. */
  createDataChannel(label) {
    return this.#channel(OWN, label);
  }

  createOffer({ iceRestart = false } = {}) {
    return this.#reply({ do: "offer", restart: iceRestart });
  }

  async createAnswer() {
    return this.localDescription;
  }

  async setLocalDescription() {}

  async setRemoteDescription({ type, sdp }) {
    await this.#reply({ do: "remote", type, sdp });
    this.remoteDescription = { type, sdp };
  }

  async addIceCandidate(candidate) {
    if (candidate?.candidate) this.#request({ do: "candidate", ...candidate });
  }

  /** No more pictures. */
  stop() {
    this.#request({ do: "stop" });
  }

  close() {
    this.connectionState = "closed";
    this.child.kill("SIGKILL");
  }
}

process.on("exit", () => {
  for (const connection of running) connection.close();
});
await run({ newConnection: (iceServers) => new Connection(iceServers), capture: (connection) => () => connection.stop() });
