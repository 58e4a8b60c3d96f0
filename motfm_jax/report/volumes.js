// NiiVue as its Jupyter widget brings it, in a page without Jupyter: `Model` is in the place of the
// notebook's side, and holds what the widget asks for.
class Model {
  constructor(values, find) {
    this.values = values;
    this.listeners = {};
    this.widget_manager = { get_model: find };
  }
  get(name) { return this.values[name]; }
  set(name, value) { this.values[name] = value; }
  on(event, listener) { (this.listeners[event] ??= []).push(listener); }
  off(event) { delete this.listeners[event]; }
  tell(event) { for (const each of this.listeners[event] ?? []) each(); }
  onChange() {}
  save_changes() {}
  send() {}
}

const text = (id) => document.getElementById(id).textContent;

async function unpacked(packed) {
  const { body } = await fetch("data:;base64," + packed);
  return new Response(body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function show() {
  const [files, models] = [JSON.parse(text("volume-files")), {}];
  const find = async (title) => models[title] ??= new Model({
    id: title, name: title + ".nii", data: new DataView(await unpacked(files[title])), path: {},
    paired_img_path: {}, colormap: "gray", opacity: 1, cal_min: 0, cal_max: 255,
    colormap_negative: "", colorbar_visible: false, colormap_type: 0, frame_4d: 0,
  });
  const chosen = document.getElementById("volume");
  const volumes = () => ["IPY_MODEL_" + chosen.value];
  const model = new Model({
    height: 420, volumes: volumes(), meshes: [], draw_opacity: 0, draw_fill_overwrites: true,
    background_masks_overlays: 0, overlay_outline_width: 0, overlay_alpha_shader: 1,
    opts: { sliceType: 3, multiplanarShowRender: 1, crosshairWidth: 0.2, isOrientCube: true },
  }, find);
  const code = new Blob([await unpacked(text("niivue"))], { type: "text/javascript" });
  const widget = (await import(URL.createObjectURL(code))).default;
  const place = document.getElementById("turning");
  await widget.initialize({ model });
  await widget.render({ model, el: place });
  const canvas = place.querySelector("canvas");
  canvas.setAttribute("role", "application");
  const label = () => canvas.setAttribute("aria-label", `Volume ${chosen.value}: drag to turn`);
  label();
  chosen.onchange = () => {
    model.set("volumes", volumes());
    model.tell("change:volumes");
    label();
  };
}

// Once, when it is opened.
document.getElementById("volumes").addEventListener("toggle", () => {
  show().catch((fault) => {
    document.getElementById("turning").textContent = `Volumes cannot be shown: ${fault}`;
  });
}, { once: true });
