// Narrows the cards to those that contain every word of the search and match both filters.
"use strict";
(() => {
  const field = document.getElementById("search");
  const domain = document.getElementById("domain");
  const state = document.getElementById("state");
  const count = document.getElementById("count");
  const none = document.getElementById("none");
  const cards = [...document.querySelectorAll(".card")];

  function narrow() {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const card of cards) {
      const match =
        words.every((word) => card.dataset.text.includes(word)) &&
        (!domain.value || card.dataset.domain === domain.value) &&
        (!state.value || card.dataset.state === state.value);
      card.hidden = !match;
      shown += match;
    }
    count.textContent = shown === 1 ? "1 paper" : `${shown} papers`;
    none.hidden = shown > 0;
  }

  for (const control of [field, domain, state]) control.addEventListener("input", narrow);
  narrow();
})();
