// The line below the header that says when something is wrong, which screen readers announce.

const CONNECTED_SECONDS = 4;
let isLost = false;
let timer;

const line = () => document.getElementById("notice");

/** Show TEXT, and a link after it if LINK is a pair of address and label. */
export function show(text, link) {
  clearTimeout(timer);
  line().replaceChildren(text);
  if (link) {
    const anchor = document.createElement("a");
    [anchor.href, anchor.textContent] = link;
    line().append(" ", anchor);
  }
  line().hidden = false;
}

/** Say that the server does not respond. */
export function lost() {
  if (isLost) return;
  isLost = true;
  show("The server does not respond. Trying again…");
}

/** Say that the server responds again, if it did not before. */
export function connected() {
  if (!isLost) return;
  isLost = false;
  show("Connected to the server again.");
  timer = setTimeout(() => { line().hidden = true; }, CONNECTED_SECONDS * 1000);
}

/** Say why the response to a request for new data is of no use; return whether to ask again. */
export function refused(status, text) {
  if (status === 401) {
    const path = encodeURIComponent(location.pathname + location.search);
    show("Your session has ended.", [`/sign-in?to=${path}`, "Sign in again"]);
    return false;
  }
  if (status === 404) {
    show(text || "This page shows something that does not exist any more.", ["/", "Start page"]);
    return false;
  }
  if (status >= 500) lost();
  else show(text);
  return true;
}
