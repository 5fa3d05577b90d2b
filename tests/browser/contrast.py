"""How well a text stands out, asked of the browser that draws it."""

LEAST_CONTRAST = 4.5  # WCAG 2, level AA

# Contrast by WCAG 2 of a text and the first background behind it that is not clear.
CONTRAST = """element => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let behind = element, colour;
  do {
    colour = numbers(getComputedStyle(behind).backgroundColor);
    behind = behind.parentElement;
  } while (behind && colour.length === 4 && colour[3] < 0.5);
  const [a, b] = [light(numbers(getComputedStyle(element).color)), light(colour)].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}"""
