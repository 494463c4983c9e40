// SPDX-License-Identifier: MPL-2.0

package manual

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/systemd"
)

// programPage is hostagent(1).
func programPage(source Source) string {
	root := source.Root
	p := newPage("hostagent", 1, source.Date, "User Commands", lowerFirst(root.Short))
	commands := leaves(root)
	p.section("Synopsis")
	var lines []roff
	for _, cmd := range commands {
		lines = append(lines, useLine(cmd))
	}
	p.literal(lines...)
	p.section("Description")
	for _, paragraph := range paragraphs(root.Long) {
		p.paragraph(prose(paragraph))
	}
	p.paragraph(prose("It reads its configuration, which hostagent.hcl(5) explains, from " + config.DefaultPath +
		". Environment stands over files, and flags over environment."))
	p.examples(root)
	p.section("Commands")
	common := commonFlags(commands)
	for _, cmd := range commands {
		p.command(cmd, common)
	}
	p.section("Common flags")
	p.paragraph("Several commands take these; each names those that it takes.")
	for _, flag := range inOrder(common) {
		p.flag(flag)
	}
	p.exitStatus(source.Statuses)
	p.files()
	p.environment()
	p.section("Signals")
	p.paragraph(bold("hostagent run") + " takes these:")
	p.item(bold("SIGHUP"), prose("reads the configuration again. One that is wrong is shown in the log and by hostagent status, and the old one stays."))
	p.item(bold("SIGTERM")+", "+bold("SIGINT"), prose("end it in good order. Its rules stay in the kernel. A second one ends it at once."))
	p.findings()
	p.checklist()
	p.section("See also")
	p.paragraph(prose("hostagent.hcl(5), systemctl(1), journalctl(1), iptables(8), ipset(8), nft(8)"))
	return p.text.String()
}

// leaves returns the commands that do something, in the order of the help: not those that only group others.
func leaves(cmd *cobra.Command) (all []*cobra.Command) {
	for _, sub := range cmd.Commands() {
		if !sub.IsAvailableCommand() && sub.Name() != "help" {
			continue
		}
		if !sub.HasAvailableSubCommands() || len(flagsOf(sub)) > 0 {
			all = append(all, sub)
		}
		all = append(all, leaves(sub)...)
	}
	return all
}

// flagsOf returns the flags of a command without --help, which all have.
func flagsOf(cmd *cobra.Command) map[string]*pflag.Flag {
	flags := map[string]*pflag.Flag{}
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && !f.Hidden {
			flags[f.Name] = f
		}
	})
	return flags
}

// commonFlags returns the flags that mean the same to so many commands that they are explained once for all.
func commonFlags(commands []*cobra.Command) map[string]*pflag.Flag {
	const many = 4
	times, common := map[string]int{}, map[string]*pflag.Flag{}
	for _, cmd := range commands {
		for name, flag := range flagsOf(cmd) {
			key := name + "\n" + flag.Usage
			if times[key]++; times[key] == many {
				common[name] = flag
			}
		}
	}
	return common
}

func inOrder(flags map[string]*pflag.Flag) (all []*pflag.Flag) {
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, flag := range flags {
		set.AddFlag(flag)
	}
	set.VisitAll(func(f *pflag.Flag) { all = append(all, f) }) // by name
	return all
}

// useLine is "hostagent scan [flag]...".
func useLine(cmd *cobra.Command) roff {
	line := bold(cmd.CommandPath())
	if arguments := strings.TrimSpace(strings.TrimPrefix(cmd.Use, cmd.Name())); arguments != "" {
		line += " " + plain(arguments)
	}
	if len(flagsOf(cmd)) > 0 {
		line += " [" + italic("flag") + "]..."
	}
	return line
}

func (p *page) command(cmd *cobra.Command, common map[string]*pflag.Flag) {
	p.subsection(cmd.CommandPath())
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	for _, paragraph := range paragraphs(text) {
		p.paragraph(prose(paragraph))
	}
	var also []string
	for _, flag := range inOrder(flagsOf(cmd)) {
		if known := common[flag.Name]; known != nil && known.Usage == flag.Usage {
			also = append(also, "--"+flag.Name)
			continue
		}
		p.flag(flag)
	}
	if len(also) > 0 {
		p.paragraph("Common flags: " + prose(strings.Join(also, ", ")+"."))
	}
	p.examples(cmd)
}

func (p *page) flag(flag *pflag.Flag) {
	tag := bold("--" + flag.Name)
	if flag.Shorthand != "" {
		tag = bold("-"+flag.Shorthand) + ", " + tag
	}
	placeholder, usage := pflag.UnquoteUsage(flag)
	if placeholder != "" {
		tag += " " + italic(placeholder)
	}
	text := prose(usage)
	if flag.Value.Type() == "string" && flag.DefValue != "" {
		text += " (default " + bold(flag.DefValue) + ")"
	}
	p.item(tag, text)
}

// behind is what stands between an example and the words on it.
var behind = regexp.MustCompile(`\s{2,}`)

func (p *page) examples(cmd *cobra.Command) {
	p.paragraph("For example:")
	p.nested(func() {
		var alone []roff // lines of which nothing is said
		for line := range strings.Lines(cmd.Example) {
			example := behind.Split(strings.TrimSpace(line), 2)
			if len(example) == 1 {
				alone = append(alone, bold(example[0]))
				continue
			}
			p.lines(&alone)
			p.item(bold(example[0]), prose(example[1]))
		}
		p.lines(&alone)
	})
}

// lines writes what stands in lines, if anything, and empties it.
func (p *page) lines(lines *[]roff) {
	if len(*lines) > 0 {
		p.literal(*lines...)
	}
	*lines = nil
}

func (p *page) exitStatus(statuses []ExitStatus) {
	p.section("Exit status")
	for _, s := range statuses {
		p.item(bold(fmt.Sprint(s.Status)), prose(s.Meaning))
	}
	p.paragraph("What each of them means to a command is said with it.")
}

func (p *page) files() {
	p.section("Files")
	for _, file := range [][2]string{
		{config.DefaultPath + "/*.hcl", "The configuration, see hostagent.hcl(5)."},
		{config.DefaultStateDir, "What hostagent firewall restore brings back at the next start of the host."},
		{hostagent.StatusSocket, "The socket on which a running hostagent answers hostagent status."},
		{systemd.Guard, "The unit of hostagent run."},
		{systemd.Sets, "The unit that makes the empty sets at boot, before saved firewall rules are loaded."},
		{systemd.Restore, "The unit that restores the ports of the last run at boot, before the network is up."},
	} {
		p.item(italic(file[0]), prose(file[1]))
	}
}

func (p *page) environment() {
	p.section("Environment")
	for _, variable := range config.Variables() {
		text := "makes the address of the agent an https one"
		if variable.Key != "" {
			text = "stands over the key " + blockForm(variable.Key)
		}
		switch variable.Name {
		case "CONSUL_HTTP_SSL_VERIFY":
			text += ", the other way round"
		}
		p.item(bold(variable.Name), prose(text+"."))
	}
	p.item(bold("NO_COLOR"), "keeps colours out of what is printed on a terminal, when it is not empty.")
	p.item(bold("TERM"), "says what the terminal can do; "+bold("dumb")+" stands for nothing.")
}

// blockForm writes a key as it stands in a file: "consul { address }".
func blockForm(key string) string {
	if block, leaf, inBlock := strings.Cut(key, "."); inBlock {
		return block + " { " + leaf + " }"
	}
	return key
}

// general matches what stands in a sentence of the catalog for no case in particular.
var general = regexp.MustCompile(`<[a-z]+>`)

func (p *page) findings() {
	p.section("Findings")
	p.paragraph(prose("What hostagent finds, in its tables, in JSON, in the log, in metrics and in Consul. Ids never change their meaning. " +
		"In the sentences, <words> stand for what differs from case to case. A finding is open, mitigated (the guard keeps the network " +
		"from the port) or exempt (a block exempt of the configuration says so)."))
	for _, e := range catalog.Entries() {
		p.item(bold(string(e.ID))+" ("+plain(e.Severity.String())+")", prose(upperFirst(e.Title)+"."),
			sentence(upperFirst(catalog.General(e.Message))+"."), "Remedy: "+sentence(e.GeneralRemedy()+"."), prose(e.Why))
	}
}

func (p *page) checklist() {
	p.section("Checklist")
	p.paragraph(prose("The items of the production checklist that hostagent audit holds a host against, by the guide's steps: what each asks, " +
		"why, and what mends it. hostagent explain tells more of each, with the settings and commands, and what mending can break."))
	for _, step := range catalog.Steps() {
		p.subsection(step.Title())
		for _, item := range catalog.Items() {
			if item.Step == step {
				p.item(bold(string(item.ID)), prose(upperFirst(item.Asks)+"."), "Remedy: "+prose(item.Remedy+"."), prose(upperFirst(item.Why)+"."))
			}
		}
	}
}

// sentence sets off what differs from case to case.
func sentence(text string) roff {
	return marked(text, general, func(name string) roff { return italic(name) })
}

// paragraphs returns the paragraphs of a help text, each as one line.
func paragraphs(text string) (all []string) {
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		all = append(all, strings.Join(strings.Fields(paragraph), " "))
	}
	return all
}

func lowerFirst(text string) string { return strings.ToLower(text[:1]) + text[1:] }

func upperFirst(text string) string { return strings.ToUpper(text[:1]) + text[1:] }
