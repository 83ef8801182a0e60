// What the apps that run in Node.js share: arguments, events on stdout, commands on stdin.

import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

/** `--api URL --role mac|phone --answer-after MS --unit FILE`; the last is the phone's picture. */
export function options() {
  const string = { type: "string" };
  const { values } = parseArgs({ options: { api: string, role: string, "answer-after": string, unit: string } });
  return { api: values.api, role: values.role, answerAfter: Number(values["answer-after"] ?? 0), unit: values.unit };
}

/** Writes an event; `t` is the time in ms since 1970, unless it is given. */
export function emit(event, fields = {}) {
  process.stdout.write(`${JSON.stringify({ t: Date.now(), event, ...fields })}\n`);
}

/** Obeys `drop-signaling MS` and `quit`. */
export function obey({ drop, quit }) {
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => {
    const [command, argument] = line.trim().split(" ");
    if (command === "drop-signaling") drop(Number(argument));
    else if (command === "quit") quit();
    else emit("error", { message: `no such command: ${line}` });
  });
}

process.on("unhandledRejection", (error) => emit("error", { message: String(error?.stack ?? error) }));
