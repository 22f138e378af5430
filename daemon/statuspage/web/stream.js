// The stream of updates. It is opened again whenever it ends, is silent for too
// long, or the page is looked at again.

const silence = 4000; // ms without a word, of which there is one each second
const longest = 5000; // ms between two attempts

// follow calls tell with each update, and lost when there is no contact: with
// true when lictord is there, but has too many readers.
export function follow(tell, lost) {
  let source, watch, again, wait = 250;
  let heardOnce; // on the present source

  function close() {
    source?.close();
    source = undefined;
    clearTimeout(watch);
    clearTimeout(again);
  }

  function fail() {
    const refused = source.readyState === EventSource.CLOSED && !heardOnce; // answered, but not 200
    close();
    again = setTimeout(open, wait);
    wait = Math.min(longest, wait * 2);
    lost(false);
    if (refused) fetch("/page/events", { method: "HEAD" }).then((r) => r.status === 503 && lost(true), () => {});
  }

  function heard() {
    clearTimeout(watch);
    watch = setTimeout(fail, silence);
  }

  function open() {
    close();
    if (document.hidden) return;
    heard();
    heardOnce = false;
    source = new EventSource("/page/events");
    source.onerror = fail; // also when it would try again by itself: later each time
    source.onmessage = (message) => {
      wait = 250;
      heardOnce = true;
      heard();
      tell(JSON.parse(message.data));
    };
  }

  // A page that nobody sees costs nobody anything.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("online", open);
  addEventListener("pagehide", close);
  addEventListener("pageshow", (e) => e.persisted && open());
  open();
}
