// Entry point: fetches the mode of this page and starts the matching source.

import { View } from "./view.js";

const SOURCES = { recv: "./recv.js", pair: "./pair.js" };

const view = new View();

async function init() {
  const response = await fetch("mode");
  const mode = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(mode.message ?? `HTTP ${response.status}`);
  const source = SOURCES[mode.mode];
  if (source === undefined) throw new Error(`unknown mode "${mode.mode}"`);
  const { start } = await import(source);
  start(view, mode);
}

init().catch((error) => {
  view.state("not started", "bad");
  view.banner(`Cannot start the page: ${error.message}`);
});
