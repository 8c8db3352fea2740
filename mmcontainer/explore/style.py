"""The look of the page, on top of Gradio's; its variables follow the browser's dark mode."""

CSS = """
.gradio-container { max-width: 1500px !important; margin: 0 auto !important; }
#mc-head h1 { font-size: 1.5rem; margin: 0; }
#mc-head p { margin: 0.2rem 0 0; color: var(--body-text-color-subdued); }
#mc-message p { padding: 0.6rem 0.9rem; border-radius: 8px; margin: 0; }
.mc-good { background: var(--background-fill-secondary); }
.mc-bad { background: #fdecea; color: #7a1a12; border: 1px solid #e5a59e; }
#mc-picture img { cursor: crosshair; max-height: 55vh; object-fit: contain; }
.mc-note { color: var(--body-text-color-subdued); padding: 0.5rem 0; }
.mc-maps h3 { font-size: 1.15rem; margin: 1.1rem 0 0.5rem; }
.mc-maps h3 small, .mc-maps h4 small {
  font-weight: normal; color: var(--body-text-color-subdued); margin-left: 0.5em; }
.mc-cards { display: flex; flex-wrap: wrap; gap: 0.8rem; }
.mc-card {
  flex: 0 1 calc(var(--columns) * 190px + 1.8rem); min-width: 215px; padding: 0.7rem 0.9rem;
  border: 1px solid var(--border-color-primary); border-radius: 10px;
  background: var(--background-fill-primary); }
.mc-card h4 { font-size: 0.95rem; margin: 0 0 0.45rem; font-weight: 600; }
.mc-row { display: grid; grid-template-columns: repeat(var(--columns), 1fr); gap: 0.7rem; }
.mc-card figure { margin: 0; min-width: 0; }
.mc-view {
  position: relative; aspect-ratio: var(--aspect); overflow: hidden; border-radius: 4px;
  background-color: #808080;
  background-image: var(--photo), repeating-linear-gradient(
    45deg, #666 0 2px, #999 2px 8px);
  background-size: var(--photo-size), auto; background-repeat: no-repeat, repeat; }
.mc-view > * { position: absolute; margin: 0 !important; max-width: none !important; }
.mc-cells { left: 0; top: 0; image-rendering: pixelated; }
.mc-zoom { image-rendering: pixelated; border: 2px solid #fff; box-shadow: 0 0 0 1px #000; }
.mc-mark { transform: translate(-50%, -50%); box-sizing: border-box; }
.mc-point {
  width: 11px; height: 11px; border-radius: 50%; background: #fff; border: 2px solid #000;
  outline: 1px solid #fff; }
.mc-dot { width: 6px; height: 6px; border-radius: 50%; background: #fff; border: 1px solid #000; }
.mc-star::before {
  content: '\\2605'; color: #ffd23f; font-style: normal; font-size: 17px; line-height: 1;
  text-shadow: 0 0 2px #000, 0 0 2px #000; }
.mc-box { border: 2px solid #d62728; outline: 1px solid #fff; box-sizing: border-box; }
.mc-cell { outline: 1.5px solid #fff; box-shadow: 0 0 0 2.5px #000; }
.mc-bar {
  display: flex; align-items: center; gap: 0.4em; font-size: 0.72rem; margin-top: 0.25rem;
  font-variant-numeric: tabular-nums; }
.mc-bar i { flex: 1; height: 9px; border-radius: 2px; }
.mc-card figcaption { font-size: 0.78rem; line-height: 1.3; margin-top: 0.15rem; }
.mc-shares {
  position: relative; display: flex; justify-content: space-between; overflow: hidden;
  border-radius: 4px; background: #d98032; color: #fff; font-size: 0.8rem; font-weight: 600;
  padding: 0.12rem 0.5rem; margin-bottom: 0.5rem; text-shadow: 0 0 3px #000a; }
.mc-shares i { position: absolute; left: 0; top: 0; bottom: 0; background: #3b6fb6; }
.mc-shares span { position: relative; color: #fff !important; }
"""
