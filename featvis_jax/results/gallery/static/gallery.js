// Everything here is an addition: without scripts the pages show the same images.
"use strict";

(() => {
  const choices = ["status", "verdict", "contrast", "view", "window", "sort"];

  // The address keeps the choices, so that a view can be sent to someone: #c12&window=own.
  function read() {
    const state = { anchor: "" };
    for (const part of location.hash.slice(1).split("&")) {
      const [name, value] = part.split("=");
      if (value === undefined) state.anchor = name;
      else if (choices.includes(name) && /^[A-Za-z0-9-]+$/.test(value)) state[name] = value;
    }
    return state;
  }

  function text(state, anchor) {
    const parts = choices.filter((name) => state[name]).map((name) => `${name}=${state[name]}`);
    const all = (anchor ? [anchor] : []).concat(parts).join("&");
    return all ? `#${all}` : "";
  }

  let state = read();

  function carry() {
    for (const link of document.querySelectorAll("a[data-carry]")) {
      const [page, hash = ""] = link.getAttribute("href").split("#");
      const anchor = /^c[0-9]+/.exec(hash);
      link.setAttribute("href", page + text(state, anchor ? anchor[0] : ""));
    }
  }

  function sort(name) {
    const rising = name === "number" || name === "similarity";
    for (const list of document.querySelectorAll(".sheet .tiles")) {
      const key = (tile) => {
        const value = Number(tile.dataset[name]);
        return Number.isNaN(value) ? Infinity : rising ? value : -value;
      };
      list.append(...[...list.children].sort((a, b) => key(a) - key(b) || number(a) - number(b)));
    }
  }

  const number = (tile) => Number(tile.dataset.number);

  function apply() {
    for (const name of choices) {
      const button = state[name] && document.getElementById(`${name}-${state[name]}`);
      if (button) button.checked = true;
    }
    if (document.getElementById("sort-number")) sort(state.sort || "number");
    carry();
    // A plain #c12 the browser finds by itself, with choices behind it does not.
    const target = state.anchor && location.hash !== `#${state.anchor}` && document.getElementById(state.anchor);
    if (target) target.scrollIntoView({ block: "center" });
  }

  function choose(name, value) {
    const first = document.querySelector(`input[name="${name}"]`);
    state[name] = first && first.value === value ? "" : value;
    history.replaceState(null, "", text(state, state.anchor) || "#");
    if (name === "sort") sort(value);
    carry();
    tellViewers();
  }

  function shown(element) {
    return element.offsetParent !== null;
  }

  // Arrows move among tiles once one has the focus, else to the neighbouring page.
  function move(tile, key) {
    const tiles = [...document.querySelectorAll(".tile a")].filter(shown);
    const place = tiles.indexOf(tile);
    if (key === "ArrowLeft" || key === "ArrowRight") return tiles[place + (key === "ArrowLeft" ? -1 : 1)];
    const here = tile.getBoundingClientRect();
    const down = key === "ArrowDown";
    const rows = tiles
      .map((other) => [other, other.getBoundingClientRect()])
      .filter(([, box]) => (down ? box.top > here.top + 4 : box.top < here.top - 4));
    if (!rows.length) return undefined;
    const nearest = down ? Math.min(...rows.map(([, box]) => box.top)) : Math.max(...rows.map(([, box]) => box.top));
    const row = rows.filter(([, box]) => Math.abs(box.top - nearest) < 4);
    row.sort((a, b) => Math.abs(a[1].left - here.left) - Math.abs(b[1].left - here.left));
    return row[0][0];
  }

  function press(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const target = event.target;
    if (target.closest("input, select, canvas, .scroll")) return;
    const tile = target.closest(".tile a");
    if (tile && event.key.startsWith("Arrow")) {
      const next = move(tile, event.key);
      if (next) next.focus();
      event.preventDefault();
      return;
    }
    const page = { ArrowLeft: "prev", ArrowRight: "next", Escape: "up" }[event.key];
    const link = page && document.querySelector(`a[rel="${page}"]`);
    if (link) {
      event.preventDefault();
      link.click();
    } else if (event.key === "w" && document.getElementById("window-own")) {
      const value = document.getElementById("window-own").checked ? "shared" : "own";
      document.getElementById(`window-${value}`).checked = true;
      choose("window", value);
    }
  }

  function filterLayers(event) {
    const wanted = event.target.value.trim().toLowerCase();
    for (const layer of document.querySelectorAll(".layer")) {
      layer.hidden = !layer.dataset.layer.toLowerCase().includes(wanted);
    }
  }

  // The 3-D viewer: two scripts, loaded when somebody asks.

  const viewers = [];
  let deliver = null;
  window.featvisGallery = { volume: (volume) => deliver && deliver(volume) };

  function load(source) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = source;
      script.onload = resolve;
      script.onerror = () => reject(new Error(`cannot load ${source}`));
      document.head.append(script);
    });
  }

  function tellViewers() {
    for (const viewer of viewers) {
      const [low, high] = viewer.windows[state.window || "shared"];
      viewer.volume.cal_min = low;
      viewer.volume.cal_max = high;
      viewer.niivue.updateGLVolume();
    }
  }

  // One volume after the other: each script hands its volume to whoever asked last.
  let opening = Promise.resolve();

  async function readVolume(source) {
    const delivered = new Promise((resolve) => { deliver = resolve; });
    await load(source);
    const volume = await delivered;
    const image = await window.niivue.NVImage.loadFromBase64({
      base64: volume.base64,
      name: `${volume.name}.nii.gz`,
      colormap: "gray",
      cal_min: volume.shared[0],
      cal_max: volume.shared[1],
    });
    return { volume: image, windows: { shared: volume.shared, own: volume.own } };
  }

  // Another contrast at the same place.
  async function exchange(viewer, source, note) {
    try {
      const next = await readVolume(source);
      viewer.niivue.addVolume(next.volume);
      viewer.niivue.removeVolume(viewer.volume);
      Object.assign(viewer, next);
      tellViewers();
    } catch (error) {
      note.textContent = `The volume does not open: ${error.message}.`;
    }
  }

  async function open(section) {
    const note = section.querySelector("[role=status]");
    const button = section.querySelector("button");
    button.disabled = true;
    note.textContent = "Loading\u2026";
    try {
      if (!document.createElement("canvas").getContext("webgl2")) {
        throw new Error("this browser has no WebGL 2");
      }
      if (!window.niivue) await load(section.dataset.library);
      const first = await readVolume(section.dataset.volume);
      const frame = document.createElement("div");
      const canvas = document.createElement("canvas");
      frame.className = "canvas";
      frame.append(canvas);
      section.append(frame);
      const niivue = new window.niivue.Niivue({
        backColor: [0, 0, 0, 1],
        isRadiologicalConvention: false,
        isOrientationTextVisible: section.dataset.oriented === "yes",
        dragAndDropEnabled: false,
        isNearestInterpolation: true,
        crosshairColor: [0.49, 0.71, 0.92, 0.8],
        crosshairWidth: 0.4,
        crosshairGap: 6,
        fontColor: [0.93, 0.94, 0.95, 1],
        logLevel: "error",
        loadingText: "",
      });
      await niivue.attachToCanvas(canvas, false);
      niivue.addVolume(first.volume);
      niivue.setSliceType(niivue.sliceTypeMultiplanar);
      window.featvisGallery.niivue = niivue;
      const viewer = { niivue, ...first };
      viewers.push(viewer);
      tellViewers();
      const contrast = section.querySelector("select");
      if (contrast) {
        contrast.parentElement.hidden = false;
        contrast.addEventListener("change", () => {
          opening = opening.then(() => exchange(viewer, contrast.value, note));
        });
      }
      button.hidden = true;
      note.textContent = "Drag to move through the volume, right button to change the window, wheel to scroll.";
      section.dataset.state = "open";
    } catch (error) {
      button.disabled = false;
      note.textContent = `The viewer does not open: ${error.message}. The pictures above show the same volume.`;
      section.dataset.state = "failed";
    }
  }

  // The scan over the changed scan: as much of it as the slider says. Twice a second at most, well
  // below what may harm; whoever asks for less motion swaps the two by hand.

  const still = window.matchMedia("(prefers-reduced-motion: reduce)");

  function blend(controls) {
    const button = controls.querySelector("button");
    const slider = controls.querySelector("input");
    const over = controls.parentElement.querySelector(".over");
    let timer = 0;
    const show = () => { over.style.opacity = String(1 - slider.value / 100); };
    const swap = () => { slider.value = slider.value > 50 ? 0 : 100; show(); };
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      button.setAttribute("aria-pressed", "false");
    };
    const name = () => { stop(); button.textContent = still.matches ? "Swap" : "Flicker"; };
    button.addEventListener("click", () => {
      if (still.matches) swap();
      else if (timer) stop();
      else {
        swap();
        timer = setInterval(swap, 600);
        button.setAttribute("aria-pressed", "true");
      }
    });
    slider.addEventListener("input", () => { stop(); show(); });
    still.addEventListener("change", name);
    name();
    show();
  }

  for (const controls of document.querySelectorAll(".blend")) blend(controls);
  for (const element of document.querySelectorAll("[data-scripted]")) element.hidden = false;
  apply();
  window.addEventListener("hashchange", () => { state = { ...state, ...read() }; apply(); });
  document.addEventListener("keydown", press);
  document.addEventListener("change", (event) => {
    if (event.target.matches(".choice input")) choose(event.target.name, event.target.value);
  });
  const search = document.getElementById("layer-filter");
  if (search) search.addEventListener("input", filterLayers);
  for (const section of document.querySelectorAll(".viewer")) {
    section.querySelector("button").addEventListener("click", () => { opening = opening.then(() => open(section)); });
  }
})();
