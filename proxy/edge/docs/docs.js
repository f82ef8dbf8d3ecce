// Swagger UI, without the bar that loads other documents, and with nothing that asks another server.
const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function followColors() {
  document.documentElement.classList.toggle("dark-mode", prefersDark.matches);
}

followColors();
prefersDark.addEventListener("change", followColors);
window.addEventListener("DOMContentLoaded", () => {
  SwaggerUIBundle({
    url: "/openapi.json",
    dom_id: "#docs",
    deepLinking: true,
    displayRequestDuration: true,
    persistAuthorization: false,
    requestSnippetsEnabled: true,
    validatorUrl: null,
  });
});
