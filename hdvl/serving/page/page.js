"use strict";
const $ = id => document.getElementById(id);
const turns = [];     // {role, text, images, boxes, usage, note, wrong}
let pending = [];     // images of the next question, each with its plan
let running = null;   // AbortController of the answer that is being written

function headers() {
  const key = $("key").value.trim();
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function request(path, body, signal) {
  let response;
  try {
    response = await fetch(path, body ? { method: "POST", headers: headers(), body: JSON.stringify(body), signal } : { headers: headers() });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(words.lost);
  }
  if (response.ok) return response;
  let message = `${response.status}`;
  try { message = (await response.json()).error.message; } catch { /* a proxy's answer has no such body */ }
  throw new Error(message);
}

function complain(message) {
  $("error").textContent = message || "";
  $("error").hidden = !message;
}

async function loadModels() {
  try {
    const found = await (await request("/v1/models")).json();
    const chosen = $("model").value;
    $("model").replaceChildren(...found.data.map(model => new Option(model.id, model.id)));
    if (found.data.some(model => model.id === chosen)) $("model").value = chosen;
    complain("");
  } catch (error) { complain(error.message); }
}

const maxTiles = () => (+$("tiles").value ? { max_tiles: +$("tiles").value } : {});

// The tiles of the images of the next question, as the server would cut them.
let asking = 0;
async function plan() {
  const number = ++asking;
  const images = pending;
  for (const one of images) delete one.plan;
  showPending();
  if (!images.length || !$("model").value) return;
  try {
    const body = { model: $("model").value, images: images.map(one => one.url), ...maxTiles() };
    const found = await (await request("/v1/tiles", body)).json();
    if (number !== asking) return;
    images.forEach((one, index) => { one.plan = found.images[index]; });
    complain("");
  } catch (error) {
    if (number !== asking) return;
    complain(error.message);
  }
  showPending();
}

function showPending() {
  const known = pending.filter(one => one.plan);
  const tokens = known.reduce((sum, one) => sum + one.plan.visual_tokens, 0);
  $("cost").textContent = known.length && known.length === pending.length ? words.cost(known.length, tokens) : "";
  $("pending").replaceChildren(...pending.map(one => {
    const figure = document.createElement("figure");
    const views = one.plan ? one.plan.views.filter(view => !view.thumbnail) : [];
    const caption = document.createElement("figcaption");
    caption.append(one.plan ? words.one(one.width, one.height, one.plan.tiles, one.plan.visual_tokens) : one.name);
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "×";
    remove.title = words.remove;
    remove.addEventListener("click", () => { pending = pending.filter(other => other !== one); plan(); });
    caption.append(remove);
    figure.append(drawn(one, views.map(view => ({ box: view.box, kind: "tile" }))), caption);
    return figure;
  }));
}

async function addFiles(files) {
  complain("");
  for (const file of files) {
    try { pending.push(await readImage(file)); } catch (error) { complain(error.message); return planDespite(error.message); }
  }
  plan();
}

// The error of a file stays, although the images before it are planned.
async function planDespite(message) { await plan(); complain(message); }

function messages() {
  const system = $("system").value.trim();
  const found = system ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    if (turn.role === "assistant") found.push({ role: "assistant", content: turn.text });
    else found.push({ role: "user", content: [
      ...turn.images.map(image => ({ type: "image_url", image_url: { url: image.url } })),
      { type: "text", text: turn.text },
    ] });
  }
  return found;
}

async function answer() {
  const body = {
    model: $("model").value, messages: messages(), stream: true, stream_options: { include_usage: true },
    max_tokens: +$("max_tokens").value, temperature: +$("temperature").value, ...maxTiles(),
  };
  if (body.temperature > 0) body.top_p = +$("top_p").value;
  const turn = { role: "assistant", text: "", boxes: [] };
  turns.push(turn);
  running = new AbortController();
  const started = performance.now();
  show();
  try {
    const response = await request("/v1/chat/completions", body, running.signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const lines = (rest + part.value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data: ") && line !== "data: [DONE]") take(turn, JSON.parse(line.slice(6)), started);
      update(turn);
    }
  } catch (error) {
    if (error.name === "AbortError") turn.note = words.stopped;
    else turn.wrong = error.message;
  }
  running = null;
  show();
}

function take(turn, event, started) {
  if (event.error) throw new Error(event.error.message);
  for (const choice of event.choices) {
    turn.text += choice.delta.content || "";
    if (choice.boxes) turn.boxes = choice.boxes;
    if (choice.finish_reason === "length") turn.note = words.length;
  }
  if (event.usage) {
    const took = words.took(event.usage.prompt_tokens, event.usage.completion_tokens, ((performance.now() - started) / 1000).toFixed(1));
    turn.note = turn.note ? `${turn.note}; ${took}` : took;
  }
}

// The text without the tags of boxes, which are drawn.
function readable(turn) {
  if (!turn.boxes || !turn.boxes.length) return turn.text;
  return turn.text.replace(/<(box|quad)>.*?<\/\1>/gs, "").replace(/<\/?ref>/g, "").trim() || turn.text;
}

function update(turn) {
  const shown = $("log").lastElementChild.querySelector(".words");
  shown.textContent = turn.text;
  $("log").scrollTop = $("log").scrollHeight;
}

function show() {
  $("log").replaceChildren(...turns.map(shownTurn));
  $("examples").hidden = turns.length > 0;
  $("send").hidden = $("model").disabled = Boolean(running);
  $("stop").hidden = !running;
  $("log").scrollTop = $("log").scrollHeight;
}

function shownTurn(turn, index) {
  const section = document.createElement("div");
  section.className = `turn ${turn.role}`;
  const text = document.createElement("div");
  text.className = "words";
  text.textContent = readable(turn);
  section.append(text);
  const images = turn.role === "user" ? turn.images.map(image => [image, []]) : boxed(turn, index);
  if (images.length) {
    const row = document.createElement("div");
    row.className = "images";
    row.append(...images.map(([image, shapes]) => drawn(image, shapes)));
    section.append(row);
  }
  for (const [name, words_] of [["note", turn.note], ["wrong", turn.wrong]]) {
    if (!words_) continue;
    const line = document.createElement("p");
    line.className = name;
    line.textContent = words_;
    section.append(line);
  }
  if (turn.role === "assistant" && index === turns.length - 1 && !running) section.append(again());
  return section;
}

// The images that an answer has boxes in. Images are counted over the whole conversation.
function boxed(turn, index) {
  const images = turns.slice(0, index).flatMap(one => one.images || []);
  return images.map((image, number) => [image, turn.boxes.filter(box => box.image === number).map(box => ({ box: box.box, kind: "box", label: box.label }))])
    .filter(([, shapes]) => shapes.length);
}

function again() {
  const row = document.createElement("div");
  row.className = "actions";
  const button = document.createElement("button");
  button.type = "button";
  button.className = "again";
  button.textContent = words.again;
  button.addEventListener("click", () => { turns.pop(); answer(); });
  row.append(button);
  return row;
}

function ask(event) {
  event.preventDefault();
  const text = $("text").value.trim();
  if (running || !text) return;
  // An answer that failed is no part of the conversation; its question is asked again with the new one.
  if (turns.length && turns[turns.length - 1].wrong) turns.splice(-2);
  turns.push({ role: "user", text, images: pending });
  pending = [];
  $("text").value = "";
  asking++;
  showPending();
  complain("");
  answer();
}

async function loadExamples() {
  const names = await (await fetch("/page/examples")).json();
  $("gallery").replaceChildren(...names.map(name => {
    const button = document.createElement("button");
    const image = document.createElement("img");
    button.type = "button";
    image.src = `/page/examples/${name}`;
    image.alt = name;
    image.loading = "lazy";
    button.append(image);
    button.addEventListener("click", async () => {
      const data = await (await fetch(image.src)).blob();
      addFiles([new File([data], name, { type: data.type })]);
    });
    return button;
  }));
}

function showValues() {
  for (const output of document.querySelectorAll("aside output")) {
    const value = $(output.htmlFor.value).value;
    output.textContent = output.htmlFor.value === "tiles" && value === "0" ? words.automatic : value;
  }
}

function setLanguage(language) {
  localStorage.setItem("hdvl-language", language);
  translate(language);
  showValues();
  showPending();
  show();
}

function setTheme(theme) {
  localStorage.setItem("hdvl-theme", theme);
  document.documentElement.dataset.theme = theme;
}

function listen() {
  $("ask").addEventListener("submit", ask);
  $("text").addEventListener("keydown", event => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) ask(event);
  });
  $("file").addEventListener("change", event => { addFiles([...event.target.files]); event.target.value = ""; });
  document.addEventListener("paste", event => {
    const files = [...event.clipboardData.files];
    if (files.length) { event.preventDefault(); addFiles(files); }
  });
  document.addEventListener("dragover", event => { event.preventDefault(); $("ask").classList.add("over"); });
  document.addEventListener("dragleave", () => $("ask").classList.remove("over"));
  document.addEventListener("drop", event => {
    event.preventDefault();
    $("ask").classList.remove("over");
    addFiles([...event.dataTransfer.files]);
  });
  $("stop").addEventListener("click", () => running && running.abort());
  $("new").addEventListener("click", () => { if (running) running.abort(); turns.length = 0; pending = []; plan(); complain(""); show(); });
  $("language").addEventListener("click", () => setLanguage(words === WORDS.en ? "zh" : "en"));
  $("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  $("options").addEventListener("click", () => {
    $("settings").hidden = !$("settings").hidden;
    $("options").setAttribute("aria-expanded", String(!$("settings").hidden));
  });
  $("settings").addEventListener("input", showValues);
  $("tiles").addEventListener("change", plan);
  $("model").addEventListener("change", plan);
  $("key").value = sessionStorage.getItem("hdvl-key") || "";
  $("key").addEventListener("change", () => { sessionStorage.setItem("hdvl-key", $("key").value); loadModels(); });
  $("viewer").querySelector("button").addEventListener("click", () => $("viewer").close());
}

const dark = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
setTheme(localStorage.getItem("hdvl-theme") || dark);
listen();
setLanguage(localStorage.getItem("hdvl-language") || (navigator.language.startsWith("zh") ? "zh" : "en"));
loadModels();
loadExamples();
