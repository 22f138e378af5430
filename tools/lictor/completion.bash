
# The words of the line, those joined again that bash splits at = and :, as the
# package bash-completion has them, without which the script would not work.
if ! declare -F _get_comp_words_by_ref >/dev/null; then
    __lictor_init_completion()
    {
        local line=$COMP_LINE word last= i
        COMPREPLY=() words=() cword=0
        for ((i = 0; i < ${#COMP_WORDS[@]}; i++)); do
            word=${COMP_WORDS[i]}
            if ((i > 0)) && [[ $line == "$word"* && ($word == [=:]* || $last == *[=:]) ]]; then
                words[${#words[@]} - 1]+=$word
            else
                words+=("$word")
            fi
            if ((i == COMP_CWORD)); then
                cword=$((${#words[@]} - 1))
            fi
            line=${line#*"$word"} last=$word
        done
        cur=${words[cword]} prev=${words[cword > 0 ? cword - 1 : 0]}
    }
fi
