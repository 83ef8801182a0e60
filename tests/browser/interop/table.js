// The tables in src/guide/interop.md: written from the results of the rows, and compared with them.

import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";

const GUIDE = path.resolve(import.meta.dirname, "../../../src/guide/interop.md");
const BEGIN = "<!-- written by `tests/browser/run.sh --table` -->\n";
const END = "<!-- end of the written part -->";

const line = (cells) => `| ${cells.map((text) => text.replaceAll("|", "\\|")).join(" | ")} |`;
const rowLine = ({ does, ours, seen, result }) => line([does, `\`${ours}\``, seen, result]);

/** Text of the page before, between and after the two markers. */
async function parts() {
  const page = await readFile(GUIDE, "utf8");
  const [from, to] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (from < 0 || to < from) throw new Error("src/guide/interop.md lacks the two markers for these tables");
  return [page.slice(0, from + BEGIN.length), page.slice(from + BEGIN.length, to), page.slice(to)];
}

/** Writes the tables, each given as `[head, rows]`. */
export async function write(tables) {
  const [before, , after] = await parts();
  const made = tables.map(([head, rows]) =>
    [line([head, "against", "what is checked", "result"]), "|---|---|---|---|", ...rows.map(rowLine), ""].join("\n"));
  await writeFile(GUIDE, `${before}\n${made.join("\n")}\n${after}`);
}

/** Rows missing in the guide, and the number of its rows. Heads are ignored, because they contain versions. */
export async function compare(rows) {
  const [, tables] = await parts();
  const lines = tables.split("\n").filter((text) => text.startsWith("| "));
  const count = lines.filter((text) => !text.includes("| what is checked |")).length;
  return { missing: rows.map(rowLine).filter((text) => !lines.includes(text)), count };
}
