// Order, choice, players and spectrograms of the mixtures in a report; see page.html for the document.
"use strict";

const RANGE = 70; // dB shown below the loudest point of a mixture's pictures
const HELD = 400; // sounds kept open at once: browsers refuse more than about a thousand
const bar = document.getElementById("bar");
const list = document.getElementById("mixtures");
const mixtures = [...list.children];
const near = new Set(); // mixtures on the screen or close to it
let playing = null;
let held = 0;

// Choice and order. They live in the address, so that a link or a reload keeps them.

const menus = [...bar.querySelectorAll("select")];

function choose() {
  const chosen = menus.map((menu) => [menu.name, menu.value]).filter(([, value]) => value);
  location.replace("#" + new URLSearchParams(chosen));
  if (list.getBoundingClientRect().top < 0) list.scrollIntoView();
}

function readChoice() {
  const address = location.hash.slice(1);
  // A link of the contents leaves the choice as it is.
  if (!address || address.includes("=")) {
    const chosen = new URLSearchParams(address);
    for (const menu of menus) {
      menu.value = chosen.get(menu.name) ?? "";
      if (menu.selectedIndex < 0) menu.selectedIndex = 0;
    }
  }
  arrange(Object.fromEntries(menus.map((menu) => [menu.name, menu.value])));
}

function arrange({ run, place, class: name, sort }) {
  const [field, direction] = sort.split("-");
  const key = (mixture) => {
    const value = Number(mixture.dataset[field]);
    return Number.isNaN(value) ? Infinity : direction === "up" ? value : -value;
  };
  const ordered = [...mixtures].sort((a, b) => key(a) - key(b) || 0);
  // Moving a player stops it: only where the order changes.
  if (ordered.some((mixture, index) => list.children[index] !== mixture)) list.append(...ordered);
  let shown = 0;
  for (const mixture of mixtures) {
    const { dataset } = mixture;
    mixture.hidden =
      (run && dataset.run !== run) ||
      (place && dataset.place !== place) ||
      (name && !JSON.parse(dataset.classes).includes(name));
    if (mixture.hidden) sounds(mixture).forEach((audio) => audio.pause());
    else shown += 1;
  }
  document.getElementById("count").value = `${shown} of ${mixtures.length} mixtures`;
  document.getElementById("none").hidden = shown > 0;
}

bar.addEventListener("change", choose);
bar.addEventListener("reset", () => setTimeout(choose)); // the event comes before the values change
bar.addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", readChoice);

// Players: one sounds at a time.

function sounds(mixture) {
  return [...mixture.querySelectorAll("audio")];
}

function open(audio) {
  if (audio.hasAttribute("src")) return;
  audio.src = audio.dataset.src;
  held += 1;
}

function close(audio) {
  if (!audio.hasAttribute("src") || !audio.paused) return;
  audio.removeAttribute("src");
  audio.load();
  showPosition(audio);
  held -= 1;
}

function showPosition(audio) {
  const player = audio.parentElement;
  const slider = player.querySelector("input");
  slider.value = audio.currentTime;
  const [now, end] = [slider.value, slider.max].map((seconds) => Number(seconds).toFixed(2));
  player.querySelector("time").textContent = `${now} / ${end} s`;
}

function follow(audio) {
  if (audio.paused) return;
  showPosition(audio);
  requestAnimationFrame(() => follow(audio));
}

function showState({ target }) {
  target.parentElement.querySelector("button").setAttribute("aria-pressed", String(!target.paused));
  showPosition(target);
}

list.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const audio = button.closest(".player").querySelector("audio");
  open(audio);
  if (!audio.paused) audio.pause();
  else audio.play().catch(() => audio.pause()); // stopped before it began, or not playable: the button comes back
});
list.addEventListener("input", (event) => {
  const audio = event.target.closest(".player").querySelector("audio");
  open(audio);
  audio.currentTime = event.target.value;
  showPosition(audio);
});
// Media events do not bubble, hence the capture.
list.addEventListener(
  "play",
  (event) => {
    if (playing && playing !== event.target) playing.pause();
    playing = event.target;
    showState(event);
    follow(playing);
  },
  true,
);
for (const name of ["pause", "ended"]) list.addEventListener(name, showState, true);

// Spectrograms: Hann windows of about 32 ms, the same range of dB for all pictures of a mixture.

const contexts = new Map();

async function decode(audio) {
  const rate = Number(audio.dataset.rate);
  // A context of the sound's own rate: another one would resample.
  if (!contexts.has(rate)) contexts.set(rate, new OfflineAudioContext(1, 1, rate));
  const bytes = Uint8Array.from(atob(audio.dataset.src.split(",")[1]), (letter) => letter.charCodeAt(0));
  const decoded = await contexts.get(rate).decodeAudioData(bytes.buffer);
  return { samples: decoded.getChannelData(0), size: 2 ** Math.round(Math.log2(0.032 * rate)) };
}

// In place, radix 2; the length is a power of two and the imaginary part zero on entry. turns: e^(-2πik/size) as [cos, sin].
function fft(real, imaginary, turns) {
  const size = real.length;
  for (let i = 1, j = 0; i < size; i++) {
    let bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [real[i], real[j]] = [real[j], real[i]];
  }
  for (let half = 1; half < size; half *= 2) {
    for (let k = 0; k < half; k++) {
      const [cos, sin] = turns[(k * size) / (2 * half)];
      for (let even = k; even < size; even += 2 * half) {
        const odd = even + half;
        const re = real[odd] * cos - imaginary[odd] * sin;
        const im = real[odd] * sin + imaginary[odd] * cos;
        real[odd] = real[even] - re;
        imaginary[odd] = imaginary[even] - im;
        real[even] += re;
        imaginary[even] += im;
      }
    }
  }
}

// dB by column (time) and row (frequency, the highest first); a sine of amplitude 1 is at 0 dB.
function spectrogram({ samples, size }) {
  const hop = Math.min(Math.max(size / 8, samples.length / 800), size / 2);
  const columns = Math.ceil(samples.length / hop);
  const rows = size / 2;
  const angles = Array.from({ length: size }, (_, n) => (-2 * Math.PI * n) / size);
  const turns = angles.map((angle) => [Math.cos(angle), Math.sin(angle)]);
  const window = Float64Array.from(turns, ([cos]) => (2 - 2 * cos) / size);
  const decibels = new Float32Array(columns * rows);
  let loudest = -100;
  for (let column = 0; column < columns; column++) {
    const start = Math.round((column + 0.5) * hop - size / 2);
    const real = window.map((weight, n) => weight * (samples[start + n] ?? 0));
    const imaginary = new Float64Array(size);
    fft(real, imaginary, turns);
    for (let bin = 0; bin < rows; bin++) {
      const value = 10 * Math.log10(real[bin] ** 2 + imaginary[bin] ** 2 + 1e-12);
      decibels[(rows - 1 - bin) * columns + column] = value;
      loudest = Math.max(loudest, value);
    }
  }
  return { columns, rows, decibels, loudest };
}

// From dark to bright, with even steps of lightness.
const COLOURS = [
  [0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122],
  [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191],
];

function colour(share) {
  const place = Math.min(Math.max(share, 0), 1) * (COLOURS.length - 1);
  const below = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[below].map((dark, n) => dark + (place - below) * (COLOURS[below + 1][n] - dark));
}

// As pixels: bytes in the order red, green, blue, opacity.
const PALETTE = new Uint32Array(
  Uint8ClampedArray.from(Array.from({ length: 256 }, (_, n) => [...colour(n / 255), 255]).flat()).buffer,
);

function paint(canvas, columns, rows, shares) {
  canvas.width = columns;
  canvas.height = rows;
  const image = new ImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  shares.forEach((share, n) => {
    pixels[n] = PALETTE[Math.round(255 * Math.min(Math.max(share, 0), 1))];
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

async function draw(mixture) {
  const pictures = await Promise.all(sounds(mixture).map(async (audio) => spectrogram(await decode(audio))));
  if (!near.has(mixture)) return;
  const loudest = Math.max(...pictures.map((picture) => picture.loudest));
  const canvases = mixture.querySelectorAll("canvas");
  pictures.forEach(({ columns, rows, decibels }, n) => {
    const shares = decibels.map((value) => 1 + (value - loudest) / RANGE);
    paint(canvases[n], columns, rows, shares);
  });
}

// Only what is near the screen has pictures; the others are made again when they come back.

function enter(mixture) {
  near.add(mixture);
  sounds(mixture).forEach(open);
  draw(mixture);
}

function leave(mixture) {
  if (!near.delete(mixture)) return;
  for (const canvas of mixture.querySelectorAll("canvas")) canvas.width = canvas.height = 0;
  if (held > HELD) sounds(mixture).forEach(close);
}

const observer = new IntersectionObserver(
  (entries) => entries.forEach((entry) => (entry.isIntersecting ? enter : leave)(entry.target)),
  { rootMargin: "600px 0px" },
);

// While nothing else happens the sounds of the next mixtures are opened too, so that they start at once.
const whenIdle = window.requestIdleCallback ?? ((task) => setTimeout(task, 100));

function openNext(index) {
  if (index >= mixtures.length || held >= HELD) return;
  sounds(mixtures[index]).forEach(open);
  whenIdle(() => openNext(index + 1));
}

readChoice();
paint(document.getElementById("key"), 256, 1, Array.from(PALETTE, (_, n) => n / 255));
mixtures.forEach((mixture) => observer.observe(mixture));
whenIdle(() => openNext(0));
