// Redoc asks its makers' server for their logo. This page asks nobody: an image from elsewhere gets no address.
// React sets an attribute, and then the property.
const src = Object.getOwnPropertyDescriptor(HTMLImageElement.prototype, "src");
const setAttribute = Element.prototype.setAttribute;

function isHere(address) {
  const { protocol, origin } = new URL(address, location.href);
  return protocol === "data:" || origin === location.origin;
}

Object.defineProperty(HTMLImageElement.prototype, "src", {
  ...src,
  set(address) {
    if (isHere(address)) src.set.call(this, address);
  },
});
HTMLImageElement.prototype.setAttribute = function (name, value) {
  if (name !== "src" || isHere(value)) setAttribute.call(this, name, value);
};

window.addEventListener("DOMContentLoaded", () => {
  Redoc.init("/openapi.json", {}, document.getElementById("docs"));
});
