// SPDX-License-Identifier: MPL-2.0

package manual

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/test/netns"
)

// A completion is what stands on the command line, and what the shell offers for its last word.
type completion struct {
	typed string
	want  []string
	files bool // extensions count, which fish leaves to the user
}

func completions() []completion {
	return []completion{
		{typed: "hostagent sc", want: []string{"scan"}},
		{typed: "hostagent re", want: []string{"report", "reports"}},
		{typed: "hostagent firewall ", want: []string{"plan", "remove", "restore", "show"}},
		{typed: "hostagent firewall restore --s", want: []string{"--sets-only"}},
		{typed: "hostagent scan --fail-on ", want: []string{"critical", "info", "never", "warning"}},
		{typed: "hostagent scan --format j", want: []string{"json"}},
		{typed: "hostagent explain gossip-k", want: []string{"gossip-key"}},
		{typed: "hostagent explain gossip-key gossip-", want: []string{"gossip-encryption", "gossip-verify"}},
		{typed: "hostagent audit --only gossip-k", want: []string{"gossip-key"}},
		{typed: "hostagent run --mode ", want: []string{"guard", "observe"}},
		{typed: "hostagent run --log-level d", want: []string{"debug"}},
		{typed: "hostagent scan ", want: nil},
		{typed: "hostagent scan --consul-user ", want: nil},
		{typed: "hostagent help fire", want: []string{"firewall"}},
		{typed: "hostagent completion z", want: []string{"zsh"}},
		{typed: "hostagent scan --config ", want: []string{"folder", "good.hcl"}, files: true},
		{typed: "hostagent scan --consul-config ", want: []string{"agent.json", "folder", "good.hcl"}, files: true},
		{typed: "hostagent config validate ", want: []string{"folder", "good.hcl"}, files: true},
		{typed: "hostagent run --consul-token-file to", want: []string{"token"}},
	}
}

// shell runs a script in a folder with files to choose from, as a user without any setting of his own, with hostagent on
// PATH. The agent that CONSUL_HTTP_ADDR names does not exist: who asks it would not answer.
func shell(t *testing.T, script string, interpreter ...string) string {
	t.Helper()
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	for _, name := range []string{"good.hcl", "agent.json", "token", "notes.txt"} {
		if err := os.WriteFile(filepath.Join(work, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(work, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	cmd := exec.Command(interpreter[0], interpreter[1:]...)
	cmd.Dir, cmd.Stdin = work, strings.NewReader(script)
	cmd.Env = []string{"PATH=" + filepath.Dir(b.program) + ":" + os.Getenv("PATH"), "HOME=" + home, "ZDOTDIR=" + home, "TERM=dumb",
		"LC_ALL=C.UTF-8", "CONSUL_HTTP_ADDR=http://192.0.2.1:8500", "MANUAL=" + generate(t)}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// check compares what a shell printed, one block of words for each completion behind a line "? TYPED".
func check(t *testing.T, printed string, all []completion) {
	t.Helper()
	for _, c := range all {
		_, after, found := strings.Cut(printed, "? "+c.typed+"\n")
		if !found {
			t.Fatalf("nothing was asked for %q:\n%s", c.typed, printed)
		}
		block, _, _ := strings.Cut(after, "? ")
		var got []string
		for line := range strings.Lines(block) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), "\t") // a description stands behind it
			if word = strings.TrimSuffix(strings.TrimSpace(word), "/"); word != "" {
				got = append(got, word)
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff(c.want, slices.Compact(got)); diff != "" {
			t.Errorf("%q (-want +got)\n%s", c.typed, diff)
		}
	}
}

// typed returns a shell's array of the command lines.
func typed(all []completion) string {
	var b strings.Builder
	for _, c := range all {
		b.WriteString(" '" + c.typed + "'")
	}
	return b.String()
}

// TestBash calls the function that "complete" names, as bash does when somebody presses the tabulator.
func TestBash(t *testing.T) {
	const library = "/usr/share/bash-completion/bash_completion"
	if _, err := os.Stat(library); err != nil {
		netns.Lacking(t, "bash-completion (test/tools.sh manual)")
	}
	all := completions()
	check(t, shell(t, `
. `+library+`
. "$MANUAL/hostagent.bash"
spec=$(complete -p hostagent) || exit
[[ $spec =~ -F\ ([^ ]+) ]] || exit
function=${BASH_REMATCH[1]}
for line in`+typed(all)+`; do
  COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9 COMP_KEY=9
  read -ra COMP_WORDS <<<"$line"
  [[ $line != *' ' ]] || COMP_WORDS+=('')
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
  "$function" hostagent "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}" 2>/dev/null
  printf '? %s\n' "$line"
  for word in "${COMPREPLY[@]}"; do printf '%s\n' "${word%%  *}"; done
  if [ ${#COMPREPLY[@]} = 0 ] && [[ $line == *token-file* ]]; then compgen -f "${COMP_WORDS[COMP_CWORD]}"; fi
done
`, "bash", "--norc"), all)
}

// TestZsh has a real zsh complete, on a terminal of its own; a widget prints what it would offer.
func TestZsh(t *testing.T) {
	need(t, "zsh")
	all := completions()
	check(t, shell(t, zshDriver+"for line in"+typed(all)+"; do ask $line; done\n", "zsh", "-f"), all)
}

// zshDriver starts an interactive zsh behind zpty. There compadd, which takes every offer of a completion function, also
// collects the words that match what was typed.
const zshDriver = `
zmodload zsh/zpty
zpty inner zsh -f -i
tell() { zpty -w inner "$1" }
tell 'KEYTIMEOUT=1 PS1= PS2= RPS1=; stty -echo 2>/dev/null; unsetopt zle_bracketed_paste prompt_cr prompt_sp; fpath=($MANUAL $fpath); autoload -Uz compinit; compinit -u -D'
tell 'compadd() { local -a found; [[ ${@[1,(i)(-|--)]} = *-(O|A|D)\ * ]] || { builtin compadd -O found "$@"; print -rl -- "${found[@]}" >>$HOME/offers }; builtin compadd "$@" }'
tell 'finish() { print -r -- END >>$HOME/offers }'
tell 'zle -C offer list-choices _main_complete; asked() { : >$HOME/offers; zle offer; finish; zle kill-whole-line }; zle -N asked; bindkey "^X" asked'
tell ': >$HOME/ready'
integer waited=0
until [[ -e $HOME/ready ]] || (( waited++ > 400 )); do sleep 0.05; done
ask() {
  rm -f $HOME/offers
  zpty -w -n inner "$1"$'\C-x'
  integer waited=0
  until [[ -e $HOME/offers && "$(tail -n 1 $HOME/offers)" = END ]] || (( waited++ > 200 )); do sleep 0.05; done
  print -r -- "? $1"
  (( waited <= 200 )) || print no answer
  grep -vx -e END -e '' $HOME/offers
  return 0
}
`

// TestFish asks fish itself. It does not filter files by their names, so these are left out.
func TestFish(t *testing.T) {
	need(t, "fish")
	var all []completion
	for _, c := range completions() {
		if !c.files {
			all = append(all, c)
		}
	}
	check(t, shell(t, `
source $MANUAL/hostagent.fish
for line in`+typed(all)+`
  echo "? $line"
  complete -C $line
end
`, "fish", "--no-config"), all)
}
