"use strict";
// Images: reading of files, drawings on them, and the zoomable viewer.
const SVG = "http://www.w3.org/2000/svg";

function readImage(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onerror = () => failed(new Error(words.notImage(file.name)));
    reader.onload = () => {
      const image = new Image();
      image.onerror = () => failed(new Error(words.notImage(file.name)));
      image.onload = () => done({ url: reader.result, name: file.name, width: image.naturalWidth, height: image.naturalHeight });
      image.src = reader.result;
    };
    reader.readAsDataURL(file);
  });
}

// A button with an image and rectangles on it: {box: [x0, y0, x1, y1], kind: "tile" or "box", label}.
function drawn(image, shapes) {
  const frame = document.createElement("button");
  frame.type = "button";
  frame.className = "image";
  const element = document.createElement("img");
  element.src = image.url;
  element.alt = image.name;
  frame.append(element, overlay(image, shapes));
  frame.addEventListener("click", () => view(image, shapes));
  return frame;
}

function overlay(image, shapes) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  for (const { box: [x0, y0, x1, y1], kind, label } of shapes) {
    const shape = document.createElementNS(SVG, "rect");
    shape.setAttribute("class", kind);
    shape.setAttribute("x", x0);
    shape.setAttribute("y", y0);
    shape.setAttribute("width", Math.max(x1 - x0, 0));
    shape.setAttribute("height", Math.max(y1 - y0, 0));
    if (label) {
      const title = document.createElementNS(SVG, "title");
      title.textContent = label;
      shape.append(title);
    }
    svg.append(shape);
  }
  return svg;
}

// The viewer: wheel or two fingers zoom about the pointer, one finger or the mouse moves.
function view(image, shapes) {
  const dialog = document.getElementById("viewer");
  const space = dialog.querySelector("div");
  const frame = document.createElement("div");
  frame.className = "image";
  const element = document.createElement("img");
  element.src = image.url;
  element.alt = image.name;
  element.width = image.width;
  element.height = image.height;
  frame.append(element, overlay(image, shapes));
  space.replaceChildren(frame);
  dialog.showModal();
  let scale = Math.min(space.clientWidth / image.width, space.clientHeight / image.height, 1), x = 0, y = 0;
  const place = () => { frame.style.transform = `translate(${x}px, ${y}px) scale(${scale})`; };
  const zoom = (factor, cx, cy) => {
    const next = Math.min(Math.max(scale * factor, 0.02), 40);
    x = cx - (cx - x) * next / scale;
    y = cy - (cy - y) * next / scale;
    scale = next;
    place();
  };
  const pointers = new Map();
  const spread = () => { const [a, b] = [...pointers.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
  const at = event => { const r = space.getBoundingClientRect(); return { x: event.clientX - r.left, y: event.clientY - r.top }; };
  space.onwheel = event => { event.preventDefault(); const p = at(event); zoom(Math.exp(-event.deltaY / 400), p.x, p.y); };
  space.onpointerdown = event => { space.setPointerCapture(event.pointerId); pointers.set(event.pointerId, at(event)); };
  space.onpointerup = space.onpointercancel = event => pointers.delete(event.pointerId);
  space.onpointermove = event => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = at(event);
    if (pointers.size === 2) {
      const old = spread();
      pointers.set(event.pointerId, now);
      zoom(spread() / old, now.x, now.y);
    } else {
      x += now.x - before.x;
      y += now.y - before.y;
      pointers.set(event.pointerId, now);
      place();
    }
  };
  place();
}
