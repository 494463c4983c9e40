// SPDX-License-Identifier: MPL-2.0

package browser

import (
	"bytes"
	"cmp"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

const (
	screensEnv  = "HOSTAGENT_SCREENS" // the folder of the README's pictures; empty leaves them as they are
	allScreens  = "../../.build/screens"
	mostBytes   = 60_000 // of a picture in the README
	mostColours = 256
)

// keep writes a picture into the build folder.
func keep(t *testing.T, name string, picture []byte) {
	t.Helper()
	write(t, allScreens, name, picture)
}

// publish writes a small picture for the README where that is asked for, beside keep.
func publish(t *testing.T, name string, picture []byte) {
	t.Helper()
	keep(t, name, picture)
	small, err := reduce(picture)
	if err != nil {
		t.Fatal(err)
	}
	if len(small) > mostBytes {
		t.Errorf("the picture %s has %d bytes", name, len(small))
	}
	if dir := os.Getenv(screensEnv); dir != "" {
		write(t, dir, name, small)
	}
}

func write(t *testing.T, dir, name string, picture []byte) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644); err != nil {
		t.Fatal(err)
	}
}

// reduce makes a PNG of a few colours: those that most pixels have, and the nearest of them for the others. A page has few, but
// for the edges of its letters.
func reduce(picture []byte) ([]byte, error) {
	full, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		return nil, err
	}
	bounds := full.Bounds()
	counts := map[color.RGBA]int{}
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			counts[rgba(full.At(x, y))]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(counts), func(a, b color.RGBA) int {
		return cmp.Or(-cmp.Compare(counts[a], counts[b]), cmp.Compare(a.R, b.R), cmp.Compare(a.G, b.G), cmp.Compare(a.B, b.B))
	})
	var palette color.Palette
	for _, c := range colours[:min(len(colours), mostColours)] {
		palette = append(palette, c)
	}
	small := image.NewPaletted(bounds, palette)
	nearest := map[color.RGBA]uint8{}
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			c := rgba(full.At(x, y))
			index, ok := nearest[c]
			if !ok {
				index = uint8(palette.Index(c)) //nolint:gosec // below mostColours
				nearest[c] = index
			}
			small.SetColorIndex(x, y, index)
		}
	}
	var out bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	err = encoder.Encode(&out, small)
	return out.Bytes(), err
}

func rgba(c color.Color) color.RGBA {
	r, g, b, a := c.RGBA()
	return color.RGBA{uint8(r >> 8), uint8(g >> 8), uint8(b >> 8), uint8(a >> 8)}
}

func TestReduce(t *testing.T) {
	full := image.NewRGBA(image.Rect(0, 0, 100, 100))
	for i := range 100 * 100 {
		full.SetRGBA(i%100, i/100, color.RGBA{uint8(i % 100), uint8(i / 100), 200, 255})
	}
	for x := range 100 {
		full.SetRGBA(x, 0, color.RGBA{255, 0, 0, 255})
	}
	var before bytes.Buffer
	if err := png.Encode(&before, full); err != nil {
		t.Fatal(err)
	}
	text, err := reduce(before.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	after, err := png.Decode(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	paletted, ok := after.(*image.Paletted)
	if !ok || len(paletted.Palette) != mostColours || after.Bounds() != full.Bounds() {
		t.Fatalf("%T of %v", after, after.Bounds())
	}
	if got := rgba(after.At(50, 0)); got != (color.RGBA{255, 0, 0, 255}) {
		t.Errorf("the colour of most pixels is %v", got)
	}
	if _, err := reduce([]byte("no picture")); err == nil {
		t.Error("no error")
	}
}
