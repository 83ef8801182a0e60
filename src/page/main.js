// Begins: asks where this page is, and starts what feeds it.

import { View } from "./view.js";

const SOURCES = { recv: "./recv.js", pair: "./pair.js" };

const view = new View();

async function begin() {
  const answer = await fetch("mode");
  const mode = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(mode.message ?? `HTTP ${answer.status}`);
  const source = SOURCES[mode.mode];
  if (source === undefined) throw new Error(`the mode "${mode.mode}" is not known to this page`);
  const { start } = await import(source);
  start(view, mode);
}

begin().catch((error) => {
  view.state("not started", "bad");
  view.banner(`The page could not start: ${error.message}`);
});
