// Order, choice and players of the mixtures in a report; see page.html for the document.
"use strict";

const bar = document.getElementById("bar");
const list = document.getElementById("mixtures");
const mixtures = [...list.children];
let playing = null;

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
    if (mixture.hidden && mixture.contains(playing)) playing.pause();
    shown += !mixture.hidden;
  }
  document.getElementById("count").value = `${shown} of ${mixtures.length} mixtures`;
  document.getElementById("none").hidden = shown > 0;
}

bar.addEventListener("change", choose);
bar.addEventListener("reset", () => setTimeout(choose)); // the event comes before the values change
bar.addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", readChoice);

// Players: one sounds at a time.

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
  if (!audio.paused) audio.pause();
  else audio.play().catch(() => audio.pause()); // stopped before it began, or not playable: the button comes back
});
list.addEventListener("input", (event) => {
  const audio = event.target.closest(".player").querySelector("audio");
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

readChoice();
