// The page: which view is shown, and what happens when a key was given.

import { startBatches, stopBatches } from "./batches.js";
import { byId } from "./dom.js";
import { setUpKey } from "./key.js";
import { setUpLive, startLive, stopLive } from "./live.js";
import { loadModels, setUpPlayground } from "./playground.js";

const VIEWS = ["playground", "live", "batches"];

function showView() {
  const wanted = VIEWS.find((view) => location.hash === `#${view}`) ?? VIEWS[0];
  for (const view of VIEWS) byId(view).hidden = view !== wanted;
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === wanted) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (wanted === "live") startLive();
  else stopLive();
  if (wanted === "batches") startBatches();
  else stopBatches();
}

setUpPlayground();
setUpLive();
setUpKey(() => {
  loadModels();
  showView();
});
addEventListener("hashchange", showView);
showView();
loadModels();
