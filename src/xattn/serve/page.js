// The page of `xattn serve`. All text goes through textContent; nothing here is parsed as markup.

import { explore } from "/explorer.js";

const at = (id) => document.getElementById(id);
let asked = 0; // answers to questions that are not the last one are dropped
let answer = null;
let chosen = null; // the place of a word

async function get(address) {
  const response = await fetch(address, { headers: { accept: "application/json" } });
  const found = await response.json();
  if (!response.ok) throw new Error(found.error);
  return found;
}

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

async function search(sentence) {
  const number = ++asked;
  at("said").textContent = "Searching …";
  close();
  try {
    const found = await get(`/api/search?${new URLSearchParams({ q: sentence, top: 20 })}`);
    if (number !== asked) return;
    answer = found;
    chosen = null;
    draw();
  } catch (error) {
    if (number !== asked) return;
    answer = null;
    at("words").replaceChildren();
    at("hits").replaceChildren();
    at("said").textContent = error.message;
  }
}

function draw() {
  const unknown = answer.unknown.length ? ` The run does not know: ${answer.unknown.join(", ")}.` : "";
  const n = answer.photos.toLocaleString("en");
  at("said").textContent = `The best ${answer.hits.length} of ${n} photos for “${answer.sentence}”.${unknown}`;
  at("words").replaceChildren(
    ...answer.words.map((word, place) => {
      const button = make("button", { type: "button", textContent: word });
      button.setAttribute("aria-pressed", String(place === chosen));
      button.addEventListener("click", () => choose(place));
      return button;
    }),
  );
  at("hits").replaceChildren(...answer.hits.map(hit));
  light();
}

function choose(place) {
  chosen = chosen === place ? null : place;
  for (const [number, button] of [...at("words").children].entries())
    button.setAttribute("aria-pressed", String(number === chosen));
  light();
}

function hit(found) {
  const image = make("img", { src: `/api/photos/${found.photo}?side=480`, alt: found.name, loading: "lazy" });
  image.width = found.width;
  image.height = found.height;
  const picture = make("span", { className: "picture" }, image);
  const name = make("span", { className: "name", textContent: `${found.rank}. ${found.name}, ${found.score.toFixed(3)}` });
  const button = make("button", { type: "button" }, picture, name);
  button.addEventListener("click", () => open(found));
  return make("li", {}, button);
}

// Outlines, on every photo, the region of the chosen word's largest weight; of no word, of all words.
function light() {
  for (const [number, item] of [...at("hits").children].entries()) {
    const picture = item.querySelector(".picture");
    for (const old of picture.querySelectorAll("span")) old.remove();
    const regions = answer.hits[number].regions;
    for (const region of chosen === null ? regions : [regions[chosen]]) {
      const [x1, y1, x2, y2] = region.box.map((side) => side * 100);
      const outline = make("span");
      outline.style.left = `${x1}%`;
      outline.style.top = `${y1}%`;
      outline.style.width = `${x2 - x1}%`;
      outline.style.height = `${y2 - y1}%`;
      picture.append(outline);
    }
  }
}

function close() {
  at("explorer").hidden = true;
  at("explorer").replaceChildren();
}

async function open(found) {
  const number = asked;
  at("said").textContent = `Looking at ${found.name} …`;
  try {
    const data = await get(`/api/explore?${new URLSearchParams({ q: answer.sentence, photo: found.photo })}`);
    if (number !== asked) return;
    close();
    at("explorer").hidden = false;
    explore(at("explorer"), data, 2);
    at("explorer").focus();
    at("explorer").scrollIntoView({ block: "start" });
    at("said").textContent = `${found.name}: what each word attends to stands below the photos.`;
  } catch (error) {
    at("said").textContent = error.message;
  }
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const sentence = at("q").value.trim();
  if (!sentence) return;
  history.replaceState(null, "", `?${new URLSearchParams({ q: sentence })}`);
  search(sentence);
});

const about = await get("/api/index");
at("about").textContent = `${about.photos.toLocaleString("en")} photos; ${about.run}`;
const begun = new URLSearchParams(location.search).get("q");
if (begun) {
  at("q").value = begun;
  search(begun);
}
