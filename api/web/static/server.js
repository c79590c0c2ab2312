// Asks this server; what goes wrong comes as an error whose message is for people.

/** The answer to a request, unless it is a problem in JSON. A page may tell of a problem itself. */
export async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached. Check that it runs, then try again.");
  }
  const page = answer.headers.get("Content-Type")?.startsWith("text/html");
  if (answer.ok || page) return answer;
  const { detail } = await answer.json().catch(() => ({}));
  throw new Error(detail ?? `The server answered ${answer.status}. Try again in a moment.`);
}
