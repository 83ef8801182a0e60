// A stack that has no bindings for JavaScript, in a process of its own, one a connection: takes requests on stdin and
// says what happens on stdout, a JSON object a line.
//
//   node engine.js COMMAND… --api URL …
//
// Requests: `{"do":"connect","role","iceServers","unit","every","relay"}` first; `offer` (with `restart`) and `remote`
// (with `type` and `sdp`) get one reply each, `{"description":{type,sdp}}`, `{"taken":true}` or `{"error":…}`;
// `candidate`, `say` and `stop` (no more pictures) get none. Events: `candidate`, `state`, `opened` (a channel, by its
// number: the phone's own is 0) with its `label`, `heard` on a `channel`, `unit` (an access unit in hexadecimal digits)
// and `picture` (one was handed to the stack).

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { createInterface } from "node:readline";

import { emit, options, run } from "./node.js";
import { EVERY } from "./rtp.js";

const { command: [program, ...args], role, unit, relay } = options();
const running = new Set();

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
    createInterface({ input: this.child.stdout }).on("line", (line) => this.#heard(JSON.parse(line)));
    this.#ask({ do: "connect", role, iceServers, unit, every: EVERY, relay: Boolean(relay) });
  }

  #ask(request) {
    this.child.stdin.write(`${JSON.stringify(request)}\n`);
  }

  #reply(request) {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#ask(request);
    });
  }

  #state(state) {
    if (this.connectionState === state) return;
    this.connectionState = state;
    this.onconnectionstatechange();
  }

  #heard(said) {
    if (said.description) this.localDescription = said.description;
    if (said.description || said.taken) this.#waiting.shift()?.resolve(said.description);
    else if (said.error) {
      const waiting = this.#waiting.shift();
      if (waiting) waiting.reject(new Error(said.error));
      else emit("error", { message: said.error });
    } else if (said.candidate) this.onicecandidate({ candidate: said.candidate });
    else if (said.state) this.#state(said.state);
    else if (said.opened !== undefined) this.#opened(said.opened, said.label);
    else if (said.heard !== undefined) this.channels.get(said.channel)?.onmessage?.({ data: said.heard });
    else if (said.unit) emit("keyframe", { sha256: createHash("sha256").update(Buffer.from(said.unit, "hex")).digest("hex") });
    else if (said.picture) emit("picture");
  }

  #opened(number, label) {
    if (!this.channels.has(number)) this.ondatachannel({ channel: this.#channel(number, label) });
    const channel = this.channels.get(number);
    channel.readyState = "open";
    channel.onopen?.();
  }

  #channel(number, label) {
    const channel = { label, readyState: "connecting", send: (text) => this.#ask({ do: "say", channel: number, text }) };
    this.channels.set(number, channel);
    return channel;
  }

  /** Made by the engine with the first offer. */
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
    if (candidate?.candidate) this.#ask({ do: "candidate", ...candidate });
  }

  /** No more pictures. */
  stop() {
    this.#ask({ do: "stop" });
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
