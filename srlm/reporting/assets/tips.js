"use strict";
// Tooltips with definitions: those of `title` attributes, shown on hover, focus and touch.

const Tips = (() => {
  if (!HTMLElement.prototype.showPopover) return { add: (node, text) => { node.title = text; return node; } };
  const tip = Object.assign(document.createElement("div"), { id: "tip", role: "tooltip", popover: "manual" });
  document.body.append(tip);

  function show(event) {
    const node = event.target.closest?.("[data-tip]");
    if (!node) return hide();
    tip.textContent = node.dataset.tip;
    tip.showPopover();
    node.setAttribute("aria-describedby", "tip");
    const at = node.getBoundingClientRect(), { offsetWidth: width, offsetHeight: height } = tip;
    tip.style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
    tip.style.top = `${at.bottom + height + 8 < innerHeight ? at.bottom + 4 : at.top - height - 4}px`;
  }

  function hide() {
    if (!tip.matches(":popover-open")) return;
    tip.hidePopover();
    for (const node of document.querySelectorAll("[aria-describedby=tip]")) node.removeAttribute("aria-describedby");
  }

  function add(node, text) {
    node.removeAttribute("title");
    node.dataset.tip = text;
    node.tabIndex = 0;
    return node;
  }

  for (const node of document.querySelectorAll("[title]")) add(node, node.title);
  for (const name of ["pointerover", "focusin"]) addEventListener(name, show);
  for (const name of ["focusout", "scroll"]) addEventListener(name, hide, { capture: true, passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  return { add };
})();
