// orion-peer as a child process, and waiting for its output.

import { spawn } from "node:child_process";

/** Timeout of a hung test; no check depends on it. */
const PATIENCE = 60_000;

const running = new Set();

/** A running `orion-peer`. */
export class Peer {
  /** Its output so far. */
  stdout = "";
  stderr = "";

  constructor(binary, args) {
    this.name = args[0];
    const env = Object.fromEntries(
      Object.entries(process.env).filter(([name]) => !name.startsWith("ORION_")),
    );
    this.child = spawn(binary, args, { env, stdio: ["pipe", "pipe", "pipe"] });
    running.add(this);
    this.child.stdout.on("data", (data) => (this.stdout += data));
    this.child.stderr.on("data", (data) => (this.stderr += data));
    this.child.stdin.on("error", () => {});
    /** Resolves with the exit code. */
    this.exit = new Promise((resolve) => {
      this.child.on("error", (error) => {
        this.stderr += String(error);
        resolve(null);
      });
      this.child.on("close", (code) => {
        running.delete(this);
        this.code = code;
        resolve(code);
      });
    });
  }

  /** The JSON lines on stdout of one `kind`. */
  events(kind) {
    const lines = this.stdout.split("\n").slice(0, -1);
    return lines.map((line) => JSON.parse(line)).filter((event) => event.kind === kind);
  }

  /** Types a line. */
  type(line) {
    this.child.stdin.write(`${line}\n`);
  }

  /** Waits until it ends by itself. */
  async ended() {
    await until(`${this.name} to end`, () => this.code !== undefined);
    return this.code;
  }

  /** Sends Ctrl-C; resolves with the exit code. */
  async stop() {
    if (this.code === undefined) this.child.kill("SIGINT");
    return this.ended();
  }
}

/** Kills processes that a failed test left running. */
export function killAll() {
  for (const peer of running) peer.child.kill("SIGKILL");
}

/** Polls until `probe` returns a truthy value, which is the result. */
export async function until(what, probe) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const found = await probe();
    if (found) return found;
    if (Date.now() > end) throw new Error(`timed out waiting for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
