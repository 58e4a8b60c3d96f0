// Paints a label map. Runs inside of gr.HTML: element, props and watch are Gradio's.
// props.value: the labels, one byte a pixel, row by row, in base64.
// props.shape: [height, width]. props.names, props.colours: of the labels, background first.
const SEND_MS = 60; // the least time between two maps while the pointer is down
const UNDO = 50;

const [height, width] = props.shape;
const canvas = element.querySelector("canvas");
[canvas.height, canvas.width] = props.shape;
const context = canvas.getContext("2d", { willReadFrequently: true });
const radius = element.querySelector("input");
const colours = props.colours.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
let labels = new Uint8Array(height * width);
let label = Math.min(1, props.names.length - 1);
let last = null;
let sent = 0;
const before = [];

function read() {
  remember();
  labels = Uint8Array.from(atob(props.value), (byte) => byte.charCodeAt(0));
  draw();
}

function remember() {
  before.push(labels.slice());
  if (before.length > UNDO) before.shift();
}

function draw() {
  const pixels = context.createImageData(width, height);
  labels.forEach((each, at) => pixels.data.set([...colours[each % colours.length], 255], 4 * at));
  context.putImageData(pixels, 0, 0);
}

function send() {
  sent = Date.now();
  let text = "";
  for (const each of labels) text += String.fromCharCode(each);
  props.value = btoa(text); // Gradio tells the server where it differs
}

function dot(row, column) {
  const r = Number(radius.value) - 0.5;
  for (let i = Math.max(0, Math.ceil(row - r)); i <= Math.min(height - 1, row + r); i++)
    for (let j = Math.max(0, Math.ceil(column - r)); j <= Math.min(width - 1, column + r); j++)
      if ((i - row) ** 2 + (j - column) ** 2 <= r * r + 0.25) labels[i * width + j] = label;
}

function stroke(event) {
  const box = canvas.getBoundingClientRect();
  const here = [
    Math.floor(((event.clientY - box.top) / box.height) * height),
    Math.floor(((event.clientX - box.left) / box.width) * width),
  ];
  const from = last ?? here;
  const steps = Math.max(1, ...here.map((to, axis) => Math.abs(to - from[axis])));
  for (let step = 0; step <= steps; step++)
    dot(...from.map((start, axis) => Math.round(start + ((here[axis] - start) * step) / steps)));
  last = here;
  draw();
}

props.names.forEach((name, number) => {
  const button = document.createElement("button");
  button.textContent = name;
  button.style.borderColor = props.colours[number % colours.length];
  button.setAttribute("aria-pressed", number === label);
  button.onclick = () => {
    label = number;
    for (const [at, each] of element.querySelectorAll(".labels button").entries())
      each.setAttribute("aria-pressed", at === number);
  };
  element.querySelector(".labels").append(button);
});
canvas.onpointerdown = (event) => {
  canvas.setPointerCapture(event.pointerId);
  remember();
  stroke(event);
  send();
};
canvas.onpointermove = (event) => {
  if (last === null) return;
  stroke(event);
  if (Date.now() - sent >= SEND_MS) send();
};
canvas.onpointerup = canvas.onpointercancel = () => {
  if (last !== null) send();
  last = null;
};
element.querySelector(".undo").onclick = () => {
  if (!before.length) return;
  labels = before.pop();
  draw();
  send();
};
element.querySelector(".clear").onclick = () => {
  remember();
  labels.fill(0);
  draw();
  send();
};
watch("value", read);
read();
