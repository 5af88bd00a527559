// Server-sent events as the server writes them: lines ended by LF, an event ended by an empty line, comments on lines of their own.

/**
 * Read a response as a stream.
 * @param {Response} response
 * @yields {{raw: string, name: string, data: string}} every event; comments have the name "comment".
 */
export async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let lines = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      rest += value;
      for (let end = rest.indexOf("\n"); end >= 0; end = rest.indexOf("\n")) {
        const line = rest.slice(0, end).replace(/\r$/, "");
        rest = rest.slice(end + 1);
        if (line.startsWith(":")) yield { raw: line, name: "comment", data: line.slice(1).trim() };
        else if (line) lines.push(line);
        else if (lines.length) {
          yield eventOf(lines);
          lines = [];
        }
      }
    }
    if (lines.length) yield eventOf(lines);
  } finally {
    reader.cancel().catch(() => {});
  }
}

function eventOf(lines) {
  const event = { raw: lines.join("\n"), name: "message", data: "" };
  const data = [];
  for (const line of lines) {
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (field === "event") event.name = value;
    else if (field === "data") data.push(value);
  }
  event.data = data.join("\n");
  return event;
}
