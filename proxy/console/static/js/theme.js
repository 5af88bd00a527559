// Runs before the page is drawn, so that it is not drawn in the wrong colours first. The choice is all that is stored for good.
(() => {
  const CHOICES = ["auto", "light", "dark"];
  const WORDS = { auto: "as the system has them", light: "light", dark: "dark" };
  const KEY = "console-theme";

  function stored() {
    try {
      return CHOICES.find((choice) => choice === localStorage.getItem(KEY)) ?? "auto";
    } catch {
      return "auto"; // a browser that keeps nothing
    }
  }

  function apply(choice) {
    document.documentElement.dataset.theme = choice;
    const button = document.getElementById("theme-button");
    if (!button) return;
    button.textContent = choice[0].toUpperCase() + choice.slice(1);
    button.setAttribute("aria-label", `Colours: ${WORDS[choice]}`);
  }

  apply(stored());
  document.addEventListener("DOMContentLoaded", () => {
    apply(stored());
    document.getElementById("theme-button").addEventListener("click", () => {
      const next = CHOICES[(CHOICES.indexOf(document.documentElement.dataset.theme) + 1) % CHOICES.length];
      try {
        localStorage.setItem(KEY, next);
      } catch {
        // then it holds for this page only
      }
      apply(next);
      document.dispatchEvent(new Event("themechange"));
    });
  });
})();
