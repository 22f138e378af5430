// The stream of updates. It is opened again whenever it ends, is silent for too
// long, or the page is looked at again.

const silence = 4000; // ms without a word, of which there is one each second
const longest = 5000; // ms between two attempts

// follow calls tell with each update, and lost with a sentence when there is no
// contact.
export function follow(tell, lost) {
  let source, watch, again, wait = 250;

  function close() {
    source?.close();
    source = undefined;
    clearTimeout(watch);
    clearTimeout(again);
  }

  function fail() {
    close();
    lost();
    again = setTimeout(open, wait);
    wait = Math.min(longest, wait * 2);
  }

  function heard() {
    clearTimeout(watch);
    watch = setTimeout(fail, silence);
  }

  function open() {
    close();
    if (document.hidden) return;
    heard();
    source = new EventSource("/page/events");
    source.onerror = fail; // also when it would try again by itself: later each time
    source.onmessage = (message) => {
      wait = 250;
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
