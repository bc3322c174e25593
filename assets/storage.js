// Some browsers keep nothing for a page (blocked cookies, some private windows): `localStorage` is missing, or
// throws when it is touched. The theme reads it on its first line, so this file comes before: such a page gets
// a storage that lasts until the page is left.

for (const name of ["localStorage", "sessionStorage"]) {
  try {
    window[name].setItem("mm-probe", "");
    window[name].removeItem("mm-probe");
  } catch {
    const kept = new Map();
    const value = {
      getItem: (key) => kept.get(String(key)) ?? null,
      setItem: (key, text) => void kept.set(String(key), String(text)),
      removeItem: (key) => void kept.delete(String(key)),
      clear: () => kept.clear(),
    };
    Object.defineProperty(window, name, { value, configurable: true });
  }
}
