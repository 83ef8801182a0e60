// The foreign peer: the wire contract in plain browser JavaScript, sharing no code with orion-peer.
// The test calls what is put on `window.peer`.

const video = document.querySelector("#video");
const canvas = document.querySelector("#canvas");

/** The one peer of this page. */
const peer = {
  pc: null,
  socket: null,
  /** Every signaling message that came. */
  signals: [],
  /** Every control message that came: `{on, ...message}`, where `on` tells whose channel. */
  controls: [],
  /** Candidates found here. */
  candidates: [],
  /** What the encoder's worker told. */
  transformed: [],
  problems: [],
  channels: { own: null, theirs: null },
  /** Best match of the shown picture with each sample, dB. */
  matches: {},
};
window.peer = peer;

addEventListener("error", (event) => peer.problems.push(event.message));
addEventListener("unhandledrejection", (event) => peer.problems.push(String(event.reason)));

/** Opens the signaling socket; resolves with the subprotocol the server chose. */
peer.join = ({ signal, token, pairId }) =>
  new Promise((resolve, reject) => {
    const socket = new WebSocket(signal, ["orion.v1", `bearer.${token}`]);
    peer.socket = socket;
    peer.pairId = pairId;
    socket.onopen = () => resolve(socket.protocol);
    socket.onerror = () => reject(new Error("signaling socket refused"));
    // One message after the other: a candidate must not overtake the offer before it.
    let last = Promise.resolve();
    socket.onmessage = ({ data }) => {
      last = last.then(() => onSignal(JSON.parse(data))).catch((error) => {
        peer.problems.push(String(error));
      });
    };
  });

function signal(t, fields) {
  peer.socket.send(JSON.stringify({ t, pairId: peer.pairId, ...fields }));
}

let early = [];
let lastOffer = null;
let answerCodec = null;

/** Only candidates with a `.local` name are told, and none of theirs is taken. */
let namesOnly = false;

async function onSignal(message) {
  peer.signals.push(message);
  const { pc } = peer;
  if (message.t === "offer") {
    // The same one may come twice; another one restarts ICE.
    if (message.sdp === lastOffer) return;
    lastOffer = message.sdp;
    await pc.setRemoteDescription({ type: "offer", sdp: message.sdp });
    if (answerCodec) preferOnly(pc.getTransceivers()[0], answerCodec, RTCRtpReceiver);
    await pc.setLocalDescription();
    signal("answer", { sdp: pc.localDescription.sdp });
    await addEarly();
  } else if (message.t === "answer") {
    await pc.setRemoteDescription({ type: "answer", sdp: message.sdp });
    await addEarly();
  } else if (message.t === "ice" && !namesOnly) {
    if (pc.remoteDescription) await pc.addIceCandidate(message.candidate ?? undefined);
    else early.push(message.candidate);
  }
}

async function addEarly() {
  for (const candidate of early) await peer.pc.addIceCandidate(candidate ?? undefined);
  early = [];
}

function preferOnly(transceiver, mimeType, kind) {
  const same = kind.getCapabilities("video").codecs.filter(
    (codec) => codec.mimeType.toLowerCase() === mimeType.toLowerCase(),
  );
  // Constrained baseline with packetization mode 1 first, as the contract has it.
  const rank = (codec) => (/packetization-mode=1/.test(codec.sdpFmtpLine ?? "") &&
    /profile-level-id=42e01f/.test(codec.sdpFmtpLine ?? "") ? 0 : 1);
  transceiver.setCodecPreferences(same.sort((a, b) => rank(a) - rank(b)));
}

function newConnection(iceServers) {
  const pc = new RTCPeerConnection({ iceServers });
  peer.pc = pc;
  pc.onicecandidate = ({ candidate }) => {
    if (namesOnly && candidate && !candidate.candidate.includes(".local")) return;
    if (candidate) peer.candidates.push(candidate.candidate);
    signal("ice", { candidate: candidate ? candidate.toJSON() : null });
  };
  pc.ondatachannel = ({ channel }) => {
    peer.channels.theirs = channel;
    listen(channel, "theirs");
  };
  return pc;
}

/** Opens a control channel of this page's own. */
peer.openControl = () => {
  const channel = peer.pc.createDataChannel("control", { ordered: false, maxPacketLifeTime: 100 });
  peer.channels.own = channel;
  listen(channel, "own");
};

function listen(channel, on) {
  channel.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    peer.controls.push({ on, ...message });
    const answer = (fields) => channel.send(JSON.stringify(fields));
    if (message.t === "ping") answer({ t: "pong", id: message.id, ts: message.ts });
    if (message.t === "text") answer({ t: "ack", id: message.id });
    if (message.t === "keyframe-request") keyframe();
  };
}

/** Makes the encoder begin anew: a keyframe at the next picture. */
async function keyframe() {
  const sender = peer.pc.getSenders()[0];
  await sender.setParameters(sender.getParameters(), { encodingOptions: [{ keyFrame: true }] });
}

/** Sends a control message on the channel `on`; false while that is not open. */
peer.say = (on, message) => {
  const channel = peer.channels[on];
  if (channel?.readyState !== "open") return false;
  channel.send(JSON.stringify(message));
  return true;
};

/** Begins ICE anew on the connection that is there. */
peer.restartIce = async () => {
  await peer.pc.setLocalDescription(await peer.pc.createOffer({ iceRestart: true }));
  signal("offer", { sdp: peer.pc.localDescription.sdp });
};

/** Opens many channels, and sends long messages on a reliable one; tells how many could be sent. */
peer.flood = async ({ channels, messages, bytes }) => {
  const long = peer.pc.createDataChannel("long");
  await new Promise((resolve) => (long.onopen = resolve));
  for (let i = 0; i < channels; i += 1) peer.pc.createDataChannel(`channel ${i}`).onerror = () => {};
  let sent = 0;
  for (; sent < messages && long.readyState === "open"; sent += 1) {
    try {
      long.send("x".repeat(bytes));
    } catch (error) {
      return { sent, error: error.name };
    }
    while (long.readyState === "open" && long.bufferedAmount > 4 * bytes) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  return { sent };
};

/** Each m-line of the answer: its kind, and whether it was taken. */
peer.answered = () => peer.pc.currentRemoteDescription.sdp.split("\r\n")
  .filter((line) => line.startsWith("m=")).map((line) => line.split(" ").slice(0, 2).join(" "));

/** The user name fragments of both sides (RFC 8445 §5.3), and how the connection is. */
peer.ice = () => {
  const fragment = (description) => /a=ice-ufrag:(\S+)/.exec(description?.sdp ?? "")?.[1];
  const { currentLocalDescription, currentRemoteDescription, connectionState } = peer.pc;
  return { local: fragment(currentLocalDescription), remote: fragment(currentRemoteDescription), connectionState };
};

/** What is known of their channel. */
peer.theirChannel = () => {
  const channel = peer.channels.theirs;
  return channel && {
    label: channel.label, ordered: channel.ordered, life: channel.maxPacketLifeTime,
  };
};

/** Waits for offers; with `codec` only that one is accepted in the answer. */
peer.beMac = ({ iceServers, codec, hidden }) => {
  answerCodec = codec ?? null;
  namesOnly = hidden ?? false;
  newConnection(iceServers).ontrack = ({ track }) => {
    video.srcObject = new MediaStream([track]);
  };
};

/** Offers a canvas of four colours with something moving on it; with `extra` also sound before it and
 * another video after it. */
peer.bePhone = async ({ iceServers, codec, width, height, colours, extra }) => {
  const pc = newConnection(iceServers);
  peer.openControl();
  if (extra) pc.addTransceiver("audio");
  canvas.width = width;
  canvas.height = height;
  paint(colours, 0);
  const stream = canvas.captureStream(5);
  let step = 0;
  setInterval(() => paint(colours, step += 1), 200);
  const transceiver = pc.addTransceiver(stream.getVideoTracks()[0], {
    direction: "sendonly", streams: [stream],
  });
  preferOnly(transceiver, codec, RTCRtpSender);
  if (extra) pc.addTransceiver("video", { direction: "recvonly" });
  if (codec === "video/H264") {
    peer.worker = new Worker("transform.js");
    peer.worker.onmessage = ({ data }) => peer.transformed.push(data);
    transceiver.sender.transform = new RTCRtpScriptTransform(peer.worker, {});
  }
  await pc.setLocalDescription();
  signal("offer", { sdp: pc.localDescription.sdp });
};

function paint(colours, step) {
  const context = canvas.getContext("2d");
  const [w, h] = [canvas.width / 2, canvas.height / 2];
  colours.forEach((colour, index) => {
    context.fillStyle = `rgb(${colour.join(" ")})`;
    context.fillRect((index % 2) * w, Math.floor(index / 2) * h, w, h);
  });
  context.fillStyle = step % 2 ? "#fff" : "#222";
  context.fillRect(w - 24 + (step % 6) * 4, h - 24, 48, 48);
}

/** Sums the numbers `names` over the statistics of one `type`. */
peer.stats = async (type, names) => {
  const sums = Object.fromEntries(names.map((name) => [name, 0]));
  for (const entry of (await peer.pc.getStats()).values()) {
    if (entry.type !== type) continue;
    for (const name of names) sums[name] += entry[name] ?? 0;
  }
  return sums;
};

/** The nominated pair's candidate types, as `local/remote`. */
peer.pair = async () => {
  const stats = await peer.pc.getStats();
  for (const entry of stats.values()) {
    if (entry.type !== "transport" || !entry.selectedCandidatePairId) continue;
    const pair = stats.get(entry.selectedCandidatePairId);
    const side = (id) => stats.get(id)?.candidateType;
    return `${side(pair.localCandidateId)}/${side(pair.remoteCandidateId)}`;
  }
  return null;
};

async function pixels(url) {
  const picture = await createImageBitmap(await (await fetch(url)).blob());
  return draw(picture, picture.width, picture.height);
}

function draw(picture, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, width, height);
}

/** Peak signal-to-noise ratio over red, green and blue, dB. */
function psnr(a, b) {
  let sum = 0;
  for (let at = 0; at < a.data.length; at += 1) {
    if (at % 4 === 3) continue;
    const difference = a.data[at] - b.data[at];
    sum += difference * difference;
  }
  const mean = sum / (a.width * a.height * 3);
  return 10 * Math.log10((255 * 255) / Math.max(mean, 1e-9));
}

/** Compares what the video shows with the samples from now on, told apart by their sizes. */
peer.watch = async (urls) => {
  const samples = await Promise.all(urls.map(async (url) => [url, await pixels(url)]));
  for (const [url] of samples) peer.matches[url] = null;
  const look = () => {
    const [width, height] = [video.videoWidth, video.videoHeight];
    const shown = width > 0 ? draw(video, width, height) : null;
    for (const [url, sample] of samples) {
      if (shown && sample.width === width && sample.height === height) {
        peer.matches[url] = Math.max(peer.matches[url] ?? 0, psnr(shown, sample));
      }
    }
    setTimeout(look, 150);
  };
  look();
};

/** Size of a picture and the mean colour of the middle of each of its quarters. */
peer.quarters = async (url) => {
  const { data, width, height } = await pixels(url);
  const means = [[0, 0], [1, 0], [0, 1], [1, 1]].map(([column, row]) => {
    const sum = [0, 0, 0];
    let count = 0;
    const [left, top] = [Math.floor(width * (column + 0.25) / 2), Math.floor(height * (row + 0.25) / 2)];
    for (let y = top; y < top + height / 4; y += 1) {
      for (let x = left; x < left + width / 4; x += 1) {
        for (let c = 0; c < 3; c += 1) sum[c] += data[(y * width + x) * 4 + c];
        count += 1;
      }
    }
    return sum.map((total) => Math.round(total / count));
  });
  return { width, height, means };
};

/** Leaves the room and closes the connection. */
peer.leave = (reason) => {
  signal("bye", { reason });
  peer.pc.close();
  peer.socket.close();
};
