// A chat with a job: sends the conversation, and writes what the model samples as it comes.

const form = document.getElementById("chat");
const list = document.getElementById("messages");
const stop = document.getElementById("stop");
const token = document.querySelector("meta[name=form-token]").content;
let messages = [];
let sending = null;

/** Add an empty message of ROLE to the page, and return its parts. */
function bubble(role) {
  const item = document.createElement("li");
  item.className = role;
  const name = document.createElement("h2");
  name.textContent = role === "user" ? "You" : "Model";
  const reasoning = document.createElement("p");
  reasoning.className = "reasoning quiet";
  reasoning.hidden = true;
  const text = document.createElement("p");
  const note = document.createElement("small");
  item.append(name, reasoning, text, note);
  list.append(item);
  item.scrollIntoView({ block: "nearest" });
  return { item, reasoning, text, note };
}

function fail(shown, sentence) {
  shown.note.className = "error";
  shown.note.setAttribute("role", "alert");
  shown.note.textContent = sentence.replaceAll("`", "");
}

/** Write one line of the stream; return the whole answer if it is that. */
function write(shown, line) {
  if (line.reasoning) {
    shown.reasoning.hidden = false;
    shown.reasoning.textContent += line.reasoning;
  }
  if (line.content) shown.text.textContent += line.content;
  if (line.error) throw new Error(line.error.detail);
  if (line.answer) {
    const { message, finish_reason: reason, usage } = line.answer;
    if (message.tool_calls.length) shown.text.textContent += JSON.stringify(message.tool_calls);
    shown.note.textContent = `${usage.sampled_tokens} tokens${reason === "length" ? ", cut at the limit" : ""}`;
  }
  return line.answer;
}

async function* linesOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield* lines.map((line) => JSON.parse(line));
  }
}

async function send() {
  const { checkpoint, temperature, max_tokens: most } = form.elements;
  const shown = bubble("assistant");
  shown.note.textContent = "Loading the weights takes longest the first time…";
  const response = await fetch(form.dataset.url, {
    method: "POST",
    signal: sending.signal,
    headers: { "Content-Type": "application/json", "X-Form-Token": token, Accept: "application/json" },
    body: JSON.stringify({
      messages, checkpoint: checkpoint.value || null,
      temperature: Number(temperature.value), max_tokens: Number(most.value),
    }),
  }).catch((error) => { throw Object.assign(error, { shown }); });
  try {
    if (!response.ok) throw new Error((await response.json().catch(() => ({}))).detail);
    shown.note.textContent = "";
    let answer = null;
    for await (const line of linesOf(response)) answer = write(shown, line) ?? answer;
    if (!answer) throw new Error("The server ended the message early; send it again.");
    const content = shown.text.textContent;
    if (content) {
      messages.push({ role: "assistant", content });
    } else {
      messages.pop();
      shown.note.textContent += "; an empty message is left out of the conversation";
    }
  } catch (error) {
    throw Object.assign(error, { shown });
  }
}

function busy(is) {
  form.querySelector("button.primary").disabled = is;
  stop.hidden = !is;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const content = form.elements.content.value.trim();
  if (!content || sending) return;
  messages.push({ role: "user", content });
  bubble("user").text.textContent = content;
  form.elements.content.value = "";
  sending = new AbortController();
  busy(true);
  try {
    await send();
  } catch (error) {
    const stopped = error.name === "AbortError";
    // Browsers have a TypeError of their own words for a connection that fails.
    const sentence = error instanceof TypeError ? "" : error.message;
    fail(error.shown, stopped ? "Stopped." : sentence || "The server does not respond; try again.");
    // The message can be sent once more, unless a new conversation has begun.
    messages.pop();
    if (list.contains(error.shown.item)) form.elements.content.value ||= content;
  }
  sending = null;
  busy(false);
  form.elements.content.focus();
});

form.elements.content.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
stop.addEventListener("click", () => sending?.abort());
document.getElementById("anew").addEventListener("click", () => {
  sending?.abort();
  messages = [];
  list.replaceChildren();
  form.elements.content.focus();
});
