// SPDX-License-Identifier: MPL-2.0

package manual

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/test/netns"
)

const reference = "../hostagent.hcl"

// builds holds what the tests build, once for all of them.
type builds struct{ generator, program string }

var built = sync.OnceValues(func() (b builds, err error) {
	folder, err := os.MkdirTemp("", "manual")
	if err != nil {
		return b, err
	}
	b = builds{generator: filepath.Join(folder, "manual"), program: filepath.Join(folder, "hostagent")}
	for _, args := range [][]string{{"-tags", "manual", "-o", b.generator}, {"-o", b.program}} {
		cmd := exec.Command("go", append(append([]string{"build"}, args...), "../../cmd/hostagent")...)
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return b, err
		}
	}
	return b, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if b, err := built(); err == nil {
		_ = os.RemoveAll(filepath.Dir(b.program))
	}
	os.Exit(code)
}

// generate runs the generator as "make manual" does, and returns the folder it wrote.
func generate(t *testing.T) string {
	t.Helper()
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "deep", "manual")
	cmd := exec.Command(b.generator, reference, folder)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return folder
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestSameSourceMakesSameBytes(t *testing.T) {
	one, two := generate(t), generate(t)
	entries, err := os.ReadDir(one)
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	home, _ := os.UserHomeDir()
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
		content := read(t, filepath.Join(one, entry.Name()))
		if content != read(t, filepath.Join(two, entry.Name())) {
			t.Errorf("%s differs between two runs", entry.Name())
		}
		for _, path := range []string{here, os.TempDir() + "/manual", home + "/"} {
			if strings.Contains(content, path) {
				t.Errorf("%s holds a path of this machine: %s", entry.Name(), path)
			}
		}
	}
	if diff := cmp.Diff([]string{"_hostagent", "hostagent.1", "hostagent.bash", "hostagent.fish", "hostagent.hcl.5"}, names); diff != "" {
		t.Errorf("files (-want +got)\n%s", diff)
	}
	if page := read(t, filepath.Join(one, "hostagent.1")); !strings.Contains(page, ".TH HOSTAGENT 1 2023-11-14 hostagent") {
		t.Errorf("the page has not the date of SOURCE_DATE_EPOCH:\n%.300s", page)
	}
}

// TestProgramIsWithoutGenerator: what makes the manual is not shipped.
func TestProgramIsWithoutGenerator(t *testing.T) {
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	const mark = `Made by "make manual"`
	if !strings.Contains(read(t, b.generator), mark) || strings.Contains(read(t, b.program), mark) {
		t.Error("the generator is not in the generator alone")
	}
}

func TestManualIsClean(t *testing.T) {
	folder := generate(t)
	for page, name := range map[string]string{"hostagent.1": "hostagent", "hostagent.hcl.5": "hostagent.hcl"} {
		t.Run(page, func(t *testing.T) {
			path := filepath.Join(folder, page)
			checkPage(t, path)
			for number, line := range strings.Split(read(t, path), "\n") {
				if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
					t.Errorf("line %d is not plain ASCII: %q", number+1, line)
				}
			}
			got := output(t, "lexgrog", path)
			if !regexp.MustCompile(`^\S+: "` + regexp.QuoteMeta(name) + ` - [^"]+"\n$`).MatchString(got) {
				t.Errorf("lexgrog reads the name as %q", got)
			}
		})
	}
}

// checkPage fails where a formatter or a linter has anything to say of a page.
func checkPage(t *testing.T, path string) {
	t.Helper()
	for _, command := range [][]string{
		{"groff", "-man", "-ww", "-Tutf8", path},
		{"groff", "-man", "-ww", "-Tascii", path},
		{"man", "-l", "--warnings", "-E", "UTF-8", "-Tutf8", "-Z", path},
		{"mandoc", "-Tlint", "-Wstyle", path},
	} {
		need(t, command[0])
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Env = append(os.Environ(), "MANROFFSEQ=", "LC_ALL=C.UTF-8", "MANWIDTH=80")
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if command[0] == "mandoc" {
			said.Write(out)
		}
		if err != nil || said.Len() > 0 {
			t.Errorf("%s: %v\n%s", strings.Join(command, " "), err, said.Bytes())
		}
	}
}

// need ends the test where a program is missing: with a failure under CI, which installs what test/tools.sh lists.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		netns.Lacking(t, program+" (test/tools.sh manual)")
	}
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	need(t, name)
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// shown is a page as a reader without colours sees it, on lines wide enough that no phrase is broken.
func shown(t *testing.T, path string) string {
	t.Helper()
	need(t, "mandoc")
	text := output(t, "mandoc", "-Tascii", "-O", "width=990", path)
	return regexp.MustCompile(".\b").ReplaceAllString(text, "")
}

func TestManualHoldsAll(t *testing.T) {
	folder := generate(t)
	program := shown(t, filepath.Join(folder, "hostagent.1"))
	for _, e := range catalog.Entries() {
		for _, want := range []string{string(e.ID) + " (" + e.Severity.String() + ")", e.Why} {
			if !strings.Contains(program, want) {
				t.Errorf("hostagent(1) lacks %q", want)
			}
		}
	}
	for _, item := range catalog.Items() {
		for _, want := range []string{"       " + string(item.ID), "Remedy: " + item.Remedy + ".\n"} { // a short id has its text beside it
			if !strings.Contains(program, want) {
				t.Errorf("hostagent(1) lacks %q", want)
			}
		}
	}
	for _, variable := range config.Variables() {
		if !strings.Contains(program, "       "+variable.Name+"\n") {
			t.Errorf("hostagent(1) lacks %s", variable.Name)
		}
	}
	for _, want := range []string{
		"   hostagent firewall plan\n", "       hostagent config validate [FILE or FOLDER]... [flag]...\n", "       --fail-on severity\n",
		"       sudo hostagent scan --all\n", "       hostagent scan --format json | jq '.findings[].message'\n", "       78     ",
		config.DefaultStateDir, "SIGHUP", "Port <port> is registered by <services>: at most one of them can be listening there.",
		"   1 Access control\n", "cannot be reached from the network: <chain> drops", "Remedy: depends on the case",
		"(default /run/hostagent/hostagent.sock)",
	} {
		if !strings.Contains(program, want) {
			t.Errorf("hostagent(1) lacks %q", want)
		}
	}
	if strings.Contains(program, "powershell") || strings.Contains(program, "{fix}") {
		t.Error("hostagent(1) shows what is not meant for readers")
	}
	configuration := shown(t, filepath.Join(folder, "hostagent.hcl.5"))
	for _, want := range []string{
		"       mode = text, such as \"observe\"\n", "       close_delay = duration, default \"30s\"\n              How long a port stays open",
		"   Block consul\n       How to reach the agent of this host.", "       cert_file = text, default \"\"\n       key_file = text, default \"\"\n",
		"\"chain NAME\"\n                     at the head of this chain", "       finding = text, such as \"exposed-listener\"\n",
	} {
		if !strings.Contains(configuration, want) {
			t.Errorf("hostagent.hcl(5) lacks %q", want)
		}
	}
}

// TestEveryKeyIsExplained compares the page with the keys that the decoder of the configuration knows.
func TestEveryKeyIsExplained(t *testing.T) {
	sections, err := parseReference(read(t, reference))
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, s := range sections {
		for _, e := range s.entries {
			if e.block == "" && (len(e.text) == 0 || len(e.text[0].text) < 20) {
				t.Errorf("%v: nothing is said of it", e.keys)
			}
			for _, k := range e.keys {
				got = append(got, k.Name)
				if k.Type == "" || k.value == "" {
					t.Errorf("%s: type %q, value %q", k.Name, k.Type, k.value)
				}
			}
		}
	}
	for _, k := range config.Keys() {
		want = append(want, k.Name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys (-want +got)\n%s", diff)
	}
}

func TestReferenceThatCannotBeExplained(t *testing.T) {
	whole := read(t, reference)
	for name, test := range map[string]struct{ old, new, want string }{
		"key gone":      {`# close_delay = "30s"`, "", `key "close_delay" is explained nowhere`},
		"key unknown":   {`# close_delay = "30s"`, `# close_dealy = "30s"`, `key "close_dealy" stands here twice, or hostagent does not know it`},
		"key twice":     {`# state_dir = "/var/lib/hostagent"`, "# state_dir = \"\"\n# state_dir = \"\"", `key "state_dir" stands here twice`},
		"no words":      {`# cut_on_close = false`, "\n# cut_on_close = false", `key "cut_on_close" has no explanation`},
		"no comment":    {`# cut_on_close = false`, "cut on close", `cannot tell what "cut on close" is`},
		"another block": {`# metrics {`, `# metrix {`, `key "metrix.address"`},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(whole, test.old) {
				t.Fatalf("the reference has no %q", test.old)
			}
			_, err := referencePage([]byte(strings.Replace(whole, test.old, test.new, 1)), time.Unix(0, 0))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v, want %q", err, test.want)
			}
		})
	}
}

func TestPassages(t *testing.T) {
	got := passages(strings.Split(`First
goes on.

Second:
  "a"    word
  "b c"  more
         of it:
           "x"  deep
                deeper
         again b.
Third.`, "\n"))
	want := []passage{
		{0, "", "First goes on."}, {0, "", "Second:"}, {1, `"a"`, "word"}, {1, `"b c"`, "more of it:"},
		{2, `"x"`, "deep deeper"}, {1, "", "again b."}, {0, "", "Third."},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(passage{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestExample: the page's example is a configuration that hostagent takes.
func TestExample(t *testing.T) {
	path := filepath.Join(t.TempDir(), "example.hcl")
	if err := os.WriteFile(path, []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path)
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		t.Error(err)
	}
}

// TestPlain: formatters of some systems hide what is not escaped.
func TestPlain(t *testing.T) {
	got := plain("--a-b \\n 'x' `y` ^~ …\n\x1b.")
	if want := roff(`\-\-a\-b \(rsn \(aqx\(aq \(gay\(ga \(ha\(ti \[u2026] .`); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestHostileText: whatever a text holds, it is shown as it is, and no formatter takes it for an order.
func TestHostileText(t *testing.T) {
	texts := []string{
		".so /etc/passwd", "'br", `\fBbold\fR \n(.x \*[x] \\`, "a-b --flag -", `"quoted" 'single' ` + "`back` ^caret~", "größe … 東京",
		strings.Repeat("x", 300), "." + strings.Repeat(" .x 'y", 40), "#include", ".TH X 1", "%d $1 \\$1", "a\tb",
	}
	p := newPage("hostile", 1, time.Unix(0, 0), "Tests", "shows anything-at-all")
	p.section("Description")
	for _, text := range texts {
		p.paragraph(prose(text))
		p.item(bold(text), italic(text), plain(text))
		p.literal(plain(text))
	}
	p.section(".a 'b c-d")
	p.paragraph("end")
	path := filepath.Join(t.TempDir(), "hostile.1")
	if err := os.WriteFile(path, []byte(p.text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	need(t, "groff")
	var said bytes.Buffer
	cmd := exec.Command("groff", "-man", "-ww", "-Tutf8", "-P-cbou", path)
	cmd.Stderr = &said
	out, err := cmd.Output()
	// A word of 300 letters cannot be adjusted; nothing else may be said.
	complaints := regexp.MustCompile(`(?m)^.*warning.*: (cannot|can't) (adjust|break) line\n`).ReplaceAllString(said.String(), "")
	if err != nil || complaints != "" {
		t.Errorf("groff: %v\n%s", err, complaints)
	}
	words := strings.Join(strings.Fields(string(out)), " ")
	for _, text := range texts {
		want := strings.Join(strings.Fields(text), " ")
		if strings.Count(words, want) != 5 {
			t.Errorf("%q is shown %d times, want 5", want, strings.Count(words, want))
		}
	}
	if !strings.Contains(words, ".A 'B C-D") {
		t.Error("the heading is not shown as it is")
	}
}
