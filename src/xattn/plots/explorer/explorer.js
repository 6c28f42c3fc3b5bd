// What words attend to in a picture, as something to look at: a page of its own, or a notebook's widget.
// All text from files goes through textContent; nothing here is parsed as markup, and nothing is fetched.

const DIM = 0.4; // the brightness of a pixel without attention, as a part of its own
const OUTLINED = 5;
const NUMBERED = 3;
const DIRECTIONS = { t2i: "Words to regions", i2t: "Regions to words" };
const PALETTE = [
  [0x8f, 0x3f, 0xb0],
  [0xd4, 0x48, 0x72],
  [0xf9, 0x8e, 0x09],
  [0xfc, 0xff, 0xa4],
]; // as bright as the weight is large, so that it serves all kinds of colour vision

function make(name, options = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined || value === null) continue;
    if (key === "text") element.textContent = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// A heading some steps below the explorer's own, which is of level `data.level`.
function heading(data, below, kind, text) {
  return make(`h${data.level + below}`, { class: kind, text });
}

function number(value) {
  return value.toFixed(Math.abs(value) < 0.0995 ? 3 : 2);
}

function signed(value) {
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
}

export function colour(share) {
  const place = Math.min(Math.max(share, 0), 1) * (PALETTE.length - 1);
  const low = Math.min(Math.floor(place), PALETTE.length - 2);
  const mixed = PALETTE[low].map((from, part) => Math.round(from + (PALETTE[low + 1][part] - from) * (place - low)));
  return `rgb(${mixed.join(", ")})`;
}

function order(weights) {
  return weights.map((_, place) => place).sort((a, b) => weights[b] - weights[a] || a - b);
}

function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}

function boxText(box) {
  return `(${box.map((side) => Math.round(side)).join(", ")})`;
}

// The pixels of a photo, lit by the largest weight of the regions that cover each: itself at the scale's end, dim and
// grey at 0.
function light(canvas, photo, pair, image, weights, scale) {
  const [width, height] = [canvas.width, canvas.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(photo, 0, 0, width, height);
  if (!weights) return;
  const shares = new Float32Array(width * height);
  pair.regions.forEach((box, region) => {
    const share = Math.min(weights[region] / scale, 1);
    const begin = (side, cells, whole) => Math.max(Math.ceil((side * cells) / whole - 0.5), 0);
    const [left, right] = [begin(box[0], width, image.width), Math.min(begin(box[2], width, image.width), width)];
    const [top, bottom] = [begin(box[1], height, image.height), Math.min(begin(box[3], height, image.height), height)];
    for (let y = top; y < bottom; y += 1) {
      for (let place = y * width + left; place < y * width + right; place += 1) {
        if (share > shares[place]) shares[place] = share;
      }
    }
  });
  const pixels = context.getImageData(0, 0, width, height);
  const values = pixels.data;
  for (let place = 0; place < shares.length; place += 1) {
    const at = 4 * place;
    const rest = (1 - shares[place]) * DIM * (0.299 * values[at] + 0.587 * values[at + 1] + 0.114 * values[at + 2]);
    for (let part = 0; part < 3; part += 1) values[at + part] = shares[place] * values[at + part] + rest;
  }
  context.putImageData(pixels, 0, 0);
}

// A picture with the attention of one run on it.
class Picture {
  constructor(data, pair, run, scale, name) {
    Object.assign(this, { data, pair, run, scale, name, image: data.images[pair.image] });
    this.canvas = make("canvas", { role: "img", width: this.image.pixels[0], height: this.image.pixels[1] });
    this.boxes = make("div", { class: "boxes", "aria-hidden": "true" });
    this.element = make("div", { class: "picture" }, this.canvas, this.boxes);
    this.photo = new Image();
    this.photo.addEventListener("load", () => this.draw());
    this.photo.src = this.image.src;
    this.shown = [null, null];
  }

  show(word, direction) {
    this.shown = [word, direction];
    this.draw();
  }

  outline(box, kind, weight, label) {
    const element = make("div", { class: `box ${kind}` });
    const share = (side, whole) => `${(100 * side) / whole}%`;
    element.style.left = share(box[0], this.image.width);
    element.style.top = share(box[1], this.image.height);
    element.style.width = share(box[2] - box[0], this.image.width);
    element.style.height = share(box[3] - box[1], this.image.height);
    if (weight !== null) element.style.borderColor = colour(weight / this.scale);
    if (label) element.append(make("span", { text: label }));
    this.boxes.append(element);
  }

  draw() {
    const [word, direction] = this.shown;
    const found = this.pair.runs[this.run];
    const matrix = word === null || !found ? null : found.attention[direction];
    const weights = matrix ? matrix[word] : null;
    this.boxes.replaceChildren();
    if (this.photo.complete && this.photo.naturalWidth) {
      light(this.canvas, this.photo, this.pair, this.image, weights, this.scale);
    }
    if (!weights) {
      this.canvas.setAttribute("aria-label", `The photo ${this.image.file}, as it is`);
      return;
    }
    const best = order(weights);
    best
      .slice(0, OUTLINED)
      .filter((region) => weights[region] > 0)
      .reverse()
      .forEach((region) => {
        const place = best.indexOf(region);
        const kind = place === 0 ? "largest" : "other";
        this.outline(this.pair.regions[region], kind, weights[region], place < NUMBERED ? number(weights[region]) : "");
      });
    for (const box of (this.pair.truth || {})[word] || []) this.outline(box, "truth", null, "");
    const text = this.pair.words[word].text;
    const where = boxText(this.pair.regions[best[0]]);
    const said = `${this.name}: the photo ${this.image.file}, lit where “${text}” attends; the largest weight, `;
    this.canvas.setAttribute("aria-label", `${said}${number(weights[best[0]])}, is on the region ${where}`);
  }
}

// The words of a caption as buttons: one of them can be tabbed to, arrows go to the others.
function wordBar(pair, label, parts, onShown) {
  let chosen = null;
  let hovered = null;
  const shown = () => onShown(hovered === null ? chosen : hovered);
  const buttons = pair.words.map((word, place) => {
    const button = make("button", {
      type: "button",
      class: `word${word.special ? " special" : ""}${word.unknown.some(Boolean) ? " unknown" : ""}`,
      "aria-pressed": "false",
      tabindex: place === 0 ? "0" : "-1",
      onclick: () => choose(chosen === place ? null : place),
      onmouseenter: () => {
        hovered = place;
        shown();
      },
      onmouseleave: () => {
        hovered = null;
        shown();
      },
      onfocus: () => focusable(place),
    });
    button.append(make("span", { class: "text", text: word.text }));
    if (word.unknown.some(Boolean)) button.append(make("span", { class: "note", text: "read as <unk>" }));
    for (const of of parts) {
      if (of.values) button.append(make("span", { class: "part", text: signed(of.values[place]), title: of.title }));
    }
    return button;
  });
  function focusable(place) {
    buttons.forEach((button, other) => button.setAttribute("tabindex", other === place ? "0" : "-1"));
  }
  function choose(place) {
    chosen = place;
    buttons.forEach((button, other) => button.setAttribute("aria-pressed", String(other === place)));
    if (place !== null) focusable(place);
    shown();
  }
  const element = make("div", {
    class: "words",
    role: "toolbar",
    "aria-label": label,
    onkeydown: (event) => {
      const at = buttons.indexOf(document.activeElement);
      const last = buttons.length - 1;
      const steps = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last };
      if (event.key === "Escape") choose(null);
      else if (event.key in steps) buttons[(steps[event.key] + buttons.length) % buttons.length].focus();
      else return;
      event.preventDefault();
    },
  });
  element.append(...buttons);
  return { element, buttons, choose };
}

function legend(scale, pair, truth) {
  const bar = make("div", { class: "bar", "aria-hidden": "true" });
  const ticks = make("div", { class: "ticks" });
  for (const share of [0, 0.5, 1]) ticks.append(make("span", { text: share ? number(share * scale) : "0" }));
  const uniform = number(1 / pair.regions.length);
  const said = [
    `One scale for all words, runs and pictures shown here; it ends at their largest weight, ${number(scale)}.`,
    `A uniform weight over ${pair.regions.length} regions is ${uniform}.`,
    "A pixel is as bright as the largest weight that covers it; at 0 the photo is dim and grey.",
    `The ${OUTLINED} largest weights are outlined, the largest thickest.`,
  ];
  if (truth) said.push("Dashed: the annotated boxes of the word.");
  return make(
    "div",
    { class: "legend" },
    make("div", { class: "scale" }, make("span", { text: "weight" }), make("div", {}, bar, ticks)),
    make("p", { text: said.join(" ") }),
  );
}

function largestWeight(caption) {
  let largest = 0;
  const pairs = [caption.pair, ...caption.negatives.map((negative) => negative.pair)];
  for (const pair of pairs) {
    for (const run of pair.runs) {
      for (const matrix of run ? Object.values(run.attention) : []) {
        for (const row of matrix) for (const weight of row) if (weight > largest) largest = weight;
      }
    }
  }
  return largest || 1;
}

function scoreLine(run, found, direction) {
  const line = found.score === null ? [] : [`score ${found.score.toFixed(3)}`];
  if (found.parts) {
    for (const [of, parts] of Object.entries(found.parts)) {
      const kind = of === "t2i" ? "words" : "regions";
      line.push(`its ${parts.length} ${kind} add ${signed(parts.reduce((sum, part) => sum + part, 0))}`);
    }
  } else if (run.noParts) line.push(run.noParts);
  if (!(direction in found.attention)) line.push(`it does not attend ${DIRECTIONS[direction].toLowerCase()}`);
  return line.join("; ");
}

function table(data, caption, direction) {
  const { pair } = caption;
  const hasTruth = Boolean(pair.truth && Object.keys(pair.truth).length);
  const columns = ["largest weight", "its region", ...(hasTruth ? ["IoU with truth"] : []), "relevance", "adds"];
  const names = make("tr", {}, make("td", { colspan: "2" }));
  const head = make("tr", {}, make("th", { scope: "col", text: "word" }), make("th", { scope: "col", text: "type" }));
  data.runs.forEach((run) => {
    names.append(make("th", { scope: "colgroup", colspan: String(columns.length), text: run.name }));
    head.append(...columns.map((text) => make("th", { scope: "col", text })));
  });
  const body = make("tbody");
  pair.words.forEach((word, place) => {
    const row = make("tr", {}, make("th", { scope: "row", text: word.text }));
    row.append(make("td", { text: word.types.join(", ") || "–" }));
    pair.runs.forEach((found) => {
      const matrix = found.attention[direction];
      const best = matrix ? order(matrix[place])[0] : null;
      const truth = (pair.truth || {})[place];
      const of = (values) => (direction === "t2i" && values && values[direction] ? values[direction][place] : null);
      const [relevance, adds] = [of(found.relevance), of(found.parts)];
      row.append(make("td", { text: matrix ? number(matrix[place][best]) : "–" }));
      row.append(make("td", { text: matrix ? boxText(pair.regions[best]) : "–" }));
      if (hasTruth) {
        const reached = truth && matrix ? Math.max(...truth.map((box) => overlap(box, pair.regions[best]))) : null;
        row.append(make("td", { text: reached === null ? "–" : reached.toFixed(2) }));
      }
      row.append(make("td", { text: relevance === null ? "–" : relevance.toFixed(3).replace("-", "−") }));
      row.append(make("td", { text: adds === null ? "–" : signed(adds) }));
    });
    body.append(row);
  });
  const title = make("caption", { text: `${DIRECTIONS[direction]}: every word of “${caption.text}”` });
  return make(
    "div",
    { class: "table", tabindex: "0", role: "region", "aria-label": "Table of the words" },
    make("table", {}, title, make("thead", {}, names, head), body),
  );
}

function negativeCard(data, caption, negative, scale, pictures) {
  const { pair, run } = negative;
  const name = data.runs[run].name;
  const own = caption.pair.runs[run].score;
  const picture = new Picture(data, pair, run, scale, name);
  const kind = negative.kind === "picture" ? "Hardest wrong photo" : "Hardest wrong caption";
  const title = data.runs.length > 1 ? `${kind}, ${name}` : kind;
  const verdict = `score ${pair.runs[run].score.toFixed(3)}, the right one ${own.toFixed(3)}`;
  const card = make("article", { class: "negative" }, heading(data, 3, "kind", title), make("p", { text: verdict }));
  if (negative.kind === "caption") {
    const parts = pair.runs[run].parts;
    const values = [{ values: parts ? parts.t2i : null, title: `what the word adds to the score, ${name}` }];
    const bar = wordBar(pair, `Words of the wrong caption, ${name}`, values, (word) => picture.show(word, card.direction));
    card.append(bar.element);
  } else pictures.push(picture);
  card.append(picture.element);
  return { card, picture, negative };
}

function view(data, caption, direction) {
  const { pair } = caption;
  const scale = largestWeight(caption);
  const hasTruth = Boolean(pair.truth && Object.keys(pair.truth).length);
  const status = make("p", { class: "status", role: "status" });
  const own = data.runs.map((run, place) => new Picture(data, pair, place, scale, run.name));
  const withWords = [...own];
  const kinds = ["picture", "caption"].map((kind) => caption.negatives.filter((negative) => negative.kind === kind));
  const cards = kinds.flat().map((negative) => negativeCard(data, caption, negative, scale, withWords));
  cards.forEach(({ card }) => {
    card.direction = direction;
  });
  const shown = (word) => {
    withWords.forEach((picture) => picture.show(word, direction));
    status.textContent = word === null ? "Choose a word to see what it attends to." : told(word);
  };
  const told = (word) =>
    `“${pair.words[word].text}” attends to ` +
    data.runs
      .map((run, place) => {
        const matrix = pair.runs[place].attention[direction];
        if (!matrix) return `nothing in this direction (${run.name})`;
        const best = order(matrix[word]).slice(0, NUMBERED);
        const regions = best.map((region) => `${number(matrix[word][region])} ${boxText(pair.regions[region])}`);
        return `${regions.join(", ")}${data.runs.length > 1 ? ` in ${run.name}` : ""}`;
      })
      .join("; ") + ".";
  const parts = data.runs.map((run, place) => ({
    values: pair.runs[place].parts ? pair.runs[place].parts.t2i : null,
    title: `what the word adds to the score, ${run.name}`,
  }));
  const bar = wordBar(pair, "Words of the caption", parts, shown);
  const figures = make("div", { class: `figures of-${data.runs.length}` });
  own.forEach((picture, place) => {
    const found = pair.runs[place];
    const title = make("figcaption", {}, make("strong", { text: data.runs[place].name }));
    title.append(make("span", { text: scoreLine(data.runs[place], found, direction) }));
    figures.append(make("figure", {}, title, picture.element));
  });
  const element = make("section", { class: "view", "aria-label": "The chosen caption" });
  element.append(heading(data, 1, "chosen", caption.text), make("p", { class: "about", text: caption.about }));
  element.append(bar.element);
  if (parts.some((of) => of.values)) {
    const runs = parts.flatMap((of, place) => (of.values ? [data.runs[place].name] : []));
    const order_ = data.runs.length > 1 && runs.length > 1 ? ` (${runs.join(", then ")})` : "";
    element.append(make("p", { class: "hint", text: `Below each word: what it adds to the score${order_}.` }));
  }
  element.append(status, figures, legend(scale, pair, hasTruth));
  if (cards.length) {
    element.append(heading(data, 2, "between", "Hardest negatives"));
    element.append(make("div", { class: "negatives" }, ...cards.map(({ card }) => card)));
  }
  element.append(table(data, caption, direction));
  shown(null);
  return { element, bar };
}

export function explore(element, content, level = 2) {
  const data = { ...content, level };
  const root = make("div", { class: "xattn-explorer" });
  const directions = Object.keys(DIRECTIONS).filter((of) => data.runs.some((run) => run.directions.includes(of)));
  const state = { caption: 0, direction: directions[0], type: "", order: "sample" };
  const types = [...new Set(data.captions.flatMap((caption) => caption.pair.words.flatMap((word) => word.types)))].sort();
  const place = make("div", { class: "place" });
  const list = make("ol");
  const count = make("p", { class: "count", role: "status" });

  const choice = (label, values, key) => {
    const select = make("select", {
      onchange: () => {
        state[key] = select.value;
        update(key !== "direction");
      },
    });
    select.append(...values.map(([value, text]) => make("option", { value, text })));
    return make("label", {}, make("span", { text: label }), select);
  };
  const filters = make("div", { class: "filters" });
  if (types.length) {
    filters.append(choice("Type of phrase", [["", "all"], ...types.map((type) => [type, type])], "type"));
  }
  if (data.captions.some((caption) => caption.difference !== null)) {
    const orders = [
      ["sample", "as in the data"],
      ["difference", "where the runs differ most"],
    ];
    filters.append(choice("Order of captions", orders, "order"));
  }
  if (directions.length > 1) {
    filters.append(choice("Direction", directions.map((of) => [of, DIRECTIONS[of]]), "direction"));
  }

  function listed() {
    const found = data.captions
      .map((caption, index) => ({ caption, index }))
      .filter(({ caption }) => !state.type || caption.pair.words.some((word) => word.types.includes(state.type)));
    const far = ({ caption }) => (caption.difference ? caption.difference.value : 0);
    if (state.order === "difference") found.sort((a, b) => far(b) - far(a) || a.index - b.index);
    return found;
  }

  function update(listChanged) {
    if (listChanged) {
      const found = listed();
      if (!found.some(({ index }) => index === state.caption) || state.order === "difference") {
        state.caption = found[0].index;
      }
      count.textContent = `${found.length} of ${data.captions.length} captions`;
      list.replaceChildren(
        ...found.map(({ caption, index }) => {
          const image = data.images[caption.pair.image];
          const button = make("button", {
            type: "button",
            onclick: () => {
              state.caption = index;
              update(false);
            },
          });
          button.dataset.index = index;
          button.append(make("img", { src: image.src, alt: "", loading: "lazy" }));
          const text = make("span", {}, make("span", { text: caption.text }));
          if (caption.difference) {
            const { word, value } = caption.difference;
            text.append(make("small", { text: `the runs differ most on “${word}”: ${value.toFixed(2)}` }));
          }
          button.append(text);
          return make("li", {}, button);
        }),
      );
    }
    for (const button of list.querySelectorAll("button")) {
      const is = Number(button.dataset.index) === state.caption;
      if (is) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    const shown = view(data, data.captions[state.caption], state.direction);
    if (state.type) {
      shown.bar.buttons.forEach((button, at) => {
        const { types: of } = data.captions[state.caption].pair.words[at];
        button.classList.toggle("of-type", of.includes(state.type));
      });
    }
    place.replaceChildren(shown.element);
  }

  root.append(heading(data, 0, "title", data.title), ...data.about.map((text) => make("p", { class: "about", text })));
  if (filters.children.length) root.append(filters);
  const layout = make("div", { class: data.captions.length > 1 ? "layout" : "layout single" });
  if (data.captions.length > 1) {
    layout.append(make("nav", { class: "list", "aria-label": "Captions" }, count, list));
  }
  layout.append(place);
  root.append(layout);
  element.append(root);
  update(true);
}

export default {
  render({ model, el }) {
    explore(el, model.get("data"));
  },
};
