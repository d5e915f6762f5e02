// The picture of a knee: window and level, zoom and pan, landmarks and evidence over it.

const LATERAL = "rgb(230,159,0)", MEDIAL = "rgb(86,180,233)";
// Inferno from purple on, since its lowest colours are black.
const HEAT = [[87, 16, 110], [137, 34, 106], [188, 55, 84], [227, 89, 51], [249, 140, 10], [249, 201, 50], [252, 255, 164]];

/** What all pictures share. */
export const look = { landmarks: true, heat: false, opacity: 0.8, level: 128, window: 255 };

/** Colour of heat from 0 to 1. */
function colour(value) {
  const place = value * (HEAT.length - 1), low = HEAT[Math.floor(place)], high = HEAT[Math.ceil(place)];
  return low.map((c, n) => c + (high[n] - c) * (place % 1));
}

/** The colours of heat, from none at the left to the strongest at the right. */
export const ramp = () => painted(100, 1, (i) => [...colour(i / 99), 255]);

async function pixels(uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function painted(width, height, paint) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set(paint(i), 4 * i);
  context.putImageData(image, 0, 0);
  return canvas;
}

export class View {
  /** Make the picture of a knee; `mirrored` shows a left knee as it is on its film. */
  constructor(canvas, picture, region, heat, mirrored) {
    Object.assign(this, { canvas, picture, region, mirrored });
    this.heat = heat && painted(heat.width, heat.height, (i) => {
      const value = heat.data[4 * i] / 255;
      return [...colour(value), 255 * value ** 0.75];
    });
    this.reset();
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("pointerdown", (event) => {
      if (this.zoom > 1) canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (canvas.hasPointerCapture(event.pointerId)) this.pan(event.movementX, event.movementY);
    });
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas) return;
      event.preventDefault();
      this.magnify(event.deltaY < 0 ? 1.2 : 1 / 1.2);
    }, { passive: false });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Make the picture of a whole film, in which the regions of some knees are outlined. */
  static async whole(canvas, blob, outlines) {
    const uri = URL.createObjectURL(blob), film = await pixels(uri);
    URL.revokeObjectURL(uri);
    canvas.style.aspectRatio = `${film.width} / ${film.height}`;
    return new View(canvas, { outlines }, film, null, null);
  }

  static async of(canvas, picture, mirrored) {
    const heat = picture.heat ? await pixels(picture.heat) : null;
    return new View(canvas, picture, await pixels(picture.region), heat, mirrored);
  }

  reset() {
    this.zoom = 1;
    this.x = this.y = 0;
    this.draw();
  }

  magnify(factor) {
    this.zoom = Math.min(Math.max(this.zoom * factor, 1), 12);
    this.pan(0, 0);
  }

  /** Move the picture by pixels of the page, no further than its edges. */
  pan(x, y) {
    const within = (place, size) => Math.min(Math.max(place, (-size * (this.zoom - 1)) / 2), (size * (this.zoom - 1)) / 2);
    this.x = within(this.x + x, this.canvas.clientWidth);
    this.y = within(this.y + y, this.canvas.clientHeight);
    this.draw();
  }

  key(event) {
    const step = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
    if (!step || this.zoom === 1) return;
    event.preventDefault();
    this.pan(...step);
  }

  draw() {
    const side = Math.round(this.canvas.clientWidth * devicePixelRatio);
    if (!side) return;
    const { canvas, region } = this;
    // A page scrolls by a picture that cannot be moved.
    canvas.style.touchAction = this.zoom > 1 ? "none" : "auto";
    canvas.width = side;
    canvas.height = Math.round((side * region.height) / region.width);
    const context = canvas.getContext("2d");
    const scale = (side / region.width) * this.zoom;
    context.translate(side / 2 + this.x * devicePixelRatio, canvas.height / 2 + this.y * devicePixelRatio);
    context.scale(this.mirrored ? -scale : scale, scale);
    context.translate(-region.width / 2, -region.height / 2);
    const least = look.level - look.window / 2, heat = look.heat && this.heat, dim = heat ? 1 - 0.475 * look.opacity : 1;
    const looks = [least, look.window, dim].join();
    if (looks !== this.looks) {
      this.looks = looks;
      this.grey = painted(region.width, region.height, (i) => {
        const value = dim * 255 * Math.min(Math.max((region.data[4 * i] - least) / look.window, 0), 1);
        return [value, value, value, 255];
      });
    }
    context.imageSmoothingQuality = "high";
    // Enlarged, the pixels themselves are of interest.
    context.imageSmoothingEnabled = this.zoom < 2;
    context.drawImage(this.grey, 0, 0);
    context.imageSmoothingEnabled = true;
    context.globalAlpha = look.opacity;
    if (heat) context.drawImage(heat, 0, 0, region.width, region.height);
    context.globalAlpha = 1;
    if (look.landmarks && this.picture.landmarks) this.mark(context, scale);
    (this.picture.outlines || []).forEach((outline) => this.outline(context, scale, outline));
    this.name(canvas.getContext("2d"), side);
  }

  mark(context, scale) {
    const size = (2.2 * devicePixelRatio * Math.sqrt(this.zoom)) / scale;
    context.fillStyle = LATERAL;
    this.picture.landmarks.forEach(([x, y], index) => {
      context.beginPath();
      if (this.picture.medial[index]) {
        context.moveTo(x - size, y - size);
        context.lineTo(x + size, y + size);
        context.moveTo(x - size, y + size);
        context.lineTo(x + size, y - size);
      } else context.arc(x, y, size, 0, 2 * Math.PI);
      // Bone is as bright as either colour.
      context.lineWidth = (3 * devicePixelRatio) / scale;
      context.strokeStyle = "rgba(0,0,0,.7)";
      context.stroke();
      context.lineWidth = (1.4 * devicePixelRatio) / scale;
      context.strokeStyle = MEDIAL;
      if (this.picture.medial[index]) context.stroke();
      else context.fill();
    });
  }

  /** Draw the edge of a region, and its words above it. */
  outline(context, scale, { words, corners }) {
    const places = corners.map(([x, y]) => [x * this.region.width, y * this.region.height]);
    context.beginPath();
    places.forEach((place) => context.lineTo(...place));
    context.closePath();
    context.lineWidth = (2 * devicePixelRatio) / scale;
    context.strokeStyle = "#fff";
    context.stroke();
    context.font = `${(14 * devicePixelRatio) / scale}px system-ui, sans-serif`;
    context.strokeStyle = "#000";
    context.fillStyle = "#fff";
    const left = Math.min(...places.map(([x]) => x)), top = Math.min(...places.map(([, y]) => y));
    const room = Math.max(this.region.width - context.measureText(words).width, 0);
    const place = [Math.min(Math.max(left, 0), room), Math.max(top - (6 * devicePixelRatio) / scale, (16 * devicePixelRatio) / scale)];
    context.lineWidth *= 2;
    context.strokeText(words, ...place);
    context.fillText(words, ...place);
  }

  /** Name the sides of the joint at the lower edge, where the side of the knee is known. */
  name(context, side) {
    context.setTransform(1, 0, 0, 1, 0, 0);
    if (this.mirrored === null) return;
    context.font = `${13 * devicePixelRatio}px system-ui, sans-serif`;
    context.lineWidth = 4 * devicePixelRatio;
    context.strokeStyle = "#000";
    context.fillStyle = "#fff";
    const words = this.mirrored ? ["medial", "lateral"] : ["lateral", "medial"];
    words.forEach((word, index) => {
      context.textAlign = index ? "right" : "left";
      const place = [index ? side - 8 * devicePixelRatio : 8 * devicePixelRatio, side - 9 * devicePixelRatio];
      context.strokeText(word, ...place);
      context.fillText(word, ...place);
    });
  }
}
