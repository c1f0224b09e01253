// Charts answer a pointer: an image becomes its own drawing, points say what they are, modes and engines can be hidden.
// Without this script all charts stand still, and nothing else is missing.
(() => {
  const NEAR = 26; // pixels from a point at which it is meant
  const hidden = new Set();
  let tip;

  const said = (element) => element.getAttribute("data-tip");

  function say(element, x, y) {
    if (!tip) {
      tip = document.createElement("div");
      tip.className = "chart-tip";
      tip.setAttribute("role", "status");
      document.body.append(tip);
    }
    tip.hidden = !element;
    if (!element) return;
    tip.textContent = said(element);
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`;
    tip.style.top = `${y + 18 + box.height < innerHeight ? y + 18 : Math.max(4, y - box.height - 10)}px`;
  }

  function nearest(svg, x, y, under) {
    const hit = under.closest("[data-tip]");
    if (hit) return hit;
    let best = null, least = NEAR;
    for (const one of svg.querySelectorAll("[data-tip]")) {
      if (one.closest(".hidden")) continue;
      const box = one.getBoundingClientRect();
      const away = Math.hypot(box.x + box.width / 2 - x, box.y + box.height / 2 - y);
      if (away < least) [best, least] = [one, away];
    }
    return best;
  }

  function alive(image) {
    const comma = image.src.indexOf(",");
    const drawing = new DOMParser().parseFromString(decodeURIComponent(image.src.slice(comma + 1)), "image/svg+xml");
    const svg = document.importNode(drawing.documentElement, true);
    if (svg.nodeName !== "svg") return;
    svg.setAttribute("role", "group");
    for (const title of svg.querySelectorAll("title")) {
      const owner = title.parentNode;
      owner.setAttribute("data-tip", title.textContent);
      owner.setAttribute("aria-label", title.textContent);
      owner.setAttribute("role", "img");
      owner.setAttribute("tabindex", "0");
      title.remove();
    }
    svg.addEventListener("pointermove", (event) => say(nearest(svg, event.clientX, event.clientY, event.target), event.clientX, event.clientY));
    svg.addEventListener("pointerdown", (event) => say(nearest(svg, event.clientX, event.clientY, event.target), event.clientX, event.clientY));
    svg.addEventListener("pointerleave", () => say(null));
    svg.addEventListener("focusin", (event) => {
      const box = event.target.getBoundingClientRect();
      say(event.target.closest("[data-tip]"), box.x + box.width / 2, box.y + box.height / 2);
    });
    svg.addEventListener("focusout", () => say(null));
    image.replaceWith(svg);
  }

  function show() {
    for (const group of document.querySelectorAll(".chart [data-mode], .chart [data-engine]")) {
      const off = ["mode", "engine"].some((name) => hidden.has(`${name} ${group.dataset[name]}`));
      group.classList.toggle("hidden", off);
    }
  }

  function toggles(place) {
    place.replaceChildren();
    for (const [name, words] of [["mode", "Modes"], ["engine", "Engines"]]) {
      const values = new Set([...document.querySelectorAll(`.chart [data-${name}]`)].map((group) => group.dataset[name]));
      if (values.size < 2) continue;
      const set = document.createElement("fieldset");
      set.append(Object.assign(document.createElement("legend"), { textContent: words }));
      for (const value of values) {
        const label = document.createElement("label");
        const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !hidden.has(`${name} ${value}`) });
        box.addEventListener("change", () => {
          hidden[box.checked ? "delete" : "add"](`${name} ${value}`);
          show();
        });
        label.append(box, ` ${value}`);
        set.append(label);
      }
      place.append(set);
    }
  }

  function update() {
    const images = document.querySelectorAll('.chart img[src^="data:image/svg+xml,"]');
    if (!images.length) return;
    images.forEach(alive);
    document.querySelectorAll(".chart-toggles").forEach(toggles);
    show();
  }

  addEventListener("keydown", (event) => event.key === "Escape" && say(null));
  addEventListener("scroll", () => say(null), { passive: true, capture: true });
  new MutationObserver(update).observe(document.body, { childList: true, subtree: true });
  update();
})();
