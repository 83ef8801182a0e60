// What `recv --view` tells, by Server-Sent Events (WHATWG HTML, section 9.2), and what it can be asked.

/** After a refusal the browser does not try again by itself: this page does, ms. */
const AGAIN_AFTER = 3000;

/** Posts JSON; throws what the answer says when it is refused. */
async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  }).catch(() => {
    throw new Error("orion-peer does not answer");
  });
  if (answer.ok) return;
  const { message } = await answer.json().catch(() => ({}));
  throw new Error(message ?? `HTTP ${answer.status}`);
}

/** Shows what the receiver tells until it ends. */
export function start(view) {
  view.other = "phone";
  view.on.say = (text) => post("say", { text });
  view.on.keyframeNow = () => post("keyframe-request", {});
  listen(view);
}

function listen(view) {
  const events = new EventSource("events");
  const on = (name, act) => events.addEventListener(name, ({ data }) => act(JSON.parse(data)));

  on("hello", (hello) => {
    const { version, pair, device, signal, out } = hello;
    view.reset();
    view.enable(true);
    const as = pair ? `${device} of pair ${pair}` : device;
    view.about(`recv ${version}, ${as}, at ${signal}; keyframes are kept in ${out}`);
    view.limit(hello.maxBytes);
    view.state("waiting for what it tells");
  });
  on("keyframe", (keyframe) => view.keyframe(keyframe));
  on("report", (report) => {
    view.heard(report.at);
    view.report(report);
  });
  on("line", ({ text, at }) => view.line(text, at));
  on("text", ({ text, at }) => view.text(text, at));
  on("end", async ({ reason }) => {
    // It stays until the last pictures are here, or does not want to wait any longer.
    events.onerror = () => events.close();
    view.end(`orion-peer has ended: ${reason}`);
    await view.pictures();
    events.close();
  });
  events.onerror = () => {
    view.enable(false);
    view.state("lost", "bad");
    view.banner("orion-peer is lost, trying again");
    if (events.readyState !== EventSource.CLOSED) return;
    setTimeout(() => listen(view), AGAIN_AFTER);
  };
}
