// Pictures on the page: painted by the phone, and compared with the sent ones.

/** Paints four colors, and a square that moves with `step`. */
export function paint(canvas, colours, step) {
  const context = canvas.getContext("2d");
  const [w, h] = [canvas.width / 2, canvas.height / 2];
  colours.forEach((colour, index) => {
    context.fillStyle = `rgb(${colour.join(" ")})`;
    context.fillRect((index % 2) * w, Math.floor(index / 2) * h, w, h);
  });
  context.fillStyle = step % 2 ? "#fff" : "#222";
  context.fillRect(w - 24 + (step % 6) * 4, h - 24, 48, 48);
}

/** The pixels of the picture at `url`. */
export async function pixels(url) {
  const picture = await createImageBitmap(await (await fetch(url)).blob());
  return draw(picture, picture.width, picture.height);
}

/** The pixels of a picture, or of the current picture of a video. */
export function draw(picture, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, width, height);
}

/** Peak signal-to-noise ratio over red, green and blue, dB. */
export function psnr(a, b) {
  let sum = 0;
  for (let at = 0; at < a.data.length; at += 1) {
    if (at % 4 === 3) continue;
    const difference = a.data[at] - b.data[at];
    sum += difference * difference;
  }
  const mean = sum / (a.width * a.height * 3);
  return 10 * Math.log10((255 * 255) / Math.max(mean, 1e-9));
}

/** Continuously compares the video with the pictures at `urls`, distinguished by their sizes; the best match of each is stored
 * in `matches`. */
export async function watch(video, urls, matches) {
  const samples = await Promise.all(urls.map(async (url) => [url, await pixels(url)]));
  for (const [url] of samples) matches[url] = null;
  const look = () => {
    const [width, height] = [video.videoWidth, video.videoHeight];
    const shown = width > 0 ? draw(video, width, height) : null;
    for (const [url, sample] of samples) {
      if (shown && sample.width === width && sample.height === height) {
        matches[url] = Math.max(matches[url] ?? 0, psnr(shown, sample));
      }
    }
    setTimeout(look, 150);
  };
  look();
}

/** Size of a picture, and the mean color of the middle of each of its quarters. */
export async function quarters(url) {
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
}
